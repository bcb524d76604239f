"""Pictures that a distill stage keeps: how a few images came about, and a grid of the set where only it can undo ZCA.

They are bytes, ready to be shown without the dataset.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ddcal.data import Dataset
from ddcal.distill import Distiller
from ddcal.pipeline.stages.distill import MAX_CLASSES, MAX_IMAGES, PROGRESS_CLASSES, PROGRESS_POINTS

PICTURES = "pictures.safetensors"
"""uint8: ``progress`` (T, n, C, S, S), with the fraction of the iterations of each T under ``fractions``; ``grid``
(classes, images, C, S, S). Each is there or not."""


class StagePictures:
    """Keeps pictures of the first image of each class as a distiller goes on, and of the set at its end."""

    def __init__(self, distiller: Distiller, dataset: Dataset) -> None:
        """Watch ``distiller``; nothing is kept before the first `note`."""
        self._distiller, self._dataset = distiller, dataset
        per_class = len(distiller.labels) // dataset.num_classes
        self._shown = torch.arange(min(PROGRESS_CLASSES, dataset.num_classes)) * per_class
        self._pictures: dict[int, Tensor] = {}

    def note(self) -> None:
        """Keep the pictures if the distiller is at the beginning, at a quarter or at the end."""
        iteration, total = self._distiller.iteration, self._distiller.iterations
        marks = {math.ceil(k * total / PROGRESS_POINTS) for k in range(PROGRESS_POINTS + 1)}
        if total > 1 and iteration in marks and iteration not in self._pictures:
            images = self._distiller.images.detach()[self._shown.to(self._distiller.images.device)].cpu()
            self._pictures[iteration] = self._shown_as(images)

    def state(self) -> dict[str, Tensor]:
        """Return what was kept."""
        return {str(iteration): pictures for iteration, pictures in self._pictures.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`; one of a ddcal that kept nothing is empty, and the set has no such pictures then."""
        self._pictures = {int(iteration): pictures for iteration, pictures in state.items()}

    def write(self, folder: Path) -> None:
        """Write what was kept, if it begins at the beginning, and the grid of a whitened set."""
        tensors: dict[str, Tensor] = {}
        if 0 in self._pictures:
            moments = sorted(self._pictures)
            fractions = [moment / self._distiller.iterations for moment in moments]
            tensors["fractions"] = torch.tensor(fractions, dtype=torch.float64)
            tensors["progress"] = torch.stack([self._pictures[moment] for moment in moments])
        if self._dataset.preprocessing.kind == "zca":  # its matrices are too large to be kept with the set
            images = self._distiller.images.detach().unflatten(0, (self._dataset.num_classes, -1))
            chosen = images[:MAX_CLASSES, :MAX_IMAGES].cpu()
            tensors["grid"] = self._shown_as(chosen.flatten(0, 1)).unflatten(0, chosen.shape[:2])
        if tensors:
            save_file(tensors, folder / PICTURES)

    def _shown_as(self, images: Tensor) -> Tensor:
        return (self._dataset.inverse_transform(images) * 255.0).round().to(torch.uint8)
