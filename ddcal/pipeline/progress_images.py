"""A few distilled images as they come about: the same ones before the first iteration and at every quarter after."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ddcal.data import Dataset
from ddcal.distill import Distiller

PROGRESS = "progress.safetensors"
"""Pictures uint8 (T, n, C, S, S) under ``images``, and the fraction of the iterations of each T under ``fractions``."""

PROGRESS_POINTS = 4
PROGRESS_CLASSES = 10
"""The first image of so many classes is shown."""

WITHOUT_PROGRESS = ("real", "file")
"""Backbones whose images do not change."""


class ProgressImages:
    """Pictures of the first image of the first classes of a distiller, in bytes: small, and ready to be shown."""

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
            self._pictures[iteration] = (self._dataset.inverse_transform(images) * 255.0).round().to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        """Return what was kept."""
        return {str(iteration): pictures for iteration, pictures in self._pictures.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`; one of a ddcal that kept nothing is empty, and the set has no such pictures then."""
        self._pictures = {int(iteration): pictures for iteration, pictures in state.items()}

    def write(self, folder: Path) -> None:
        """Write what was kept, if it begins at the beginning."""
        if 0 not in self._pictures:
            return
        moments = sorted(self._pictures)
        fractions = torch.tensor([moment / self._distiller.iterations for moment in moments], dtype=torch.float64)
        pictures = torch.stack([self._pictures[moment] for moment in moments])
        save_file({"images": pictures, "fractions": fractions}, folder / PROGRESS)
