"""The random real subset: ``ipc`` training images of every class, the reference row of every distillation table."""

from __future__ import annotations

import torch
from torch import Tensor

from ddcal.config import DistillConfig
from ddcal.data import Dataset
from ddcal.distill.distiller import Distiller
from ddcal.seeding import generator


def random_subset(dataset: Dataset, ipc: int, seed: int, each: int = 1) -> tuple[Tensor, Tensor]:
    """Return ``ipc`` · ``each`` random training images of every class, without replacement.

    Args:
        dataset: Only ``train`` is read.
        ipc: Images a class, as ``distill.ipc``.
        seed: The trial's seed.
        each: Real images of which one of them is made (`ddcal.distill.formation`).

    Returns:
        images float32 (K·ipc·each, C, H, W) and labels int64 (K·ipc·each,), ordered by class.

    Raises:
        ValueError: if a class has fewer training images.
    """
    index = torch.cat([order[: ipc * each] for order in shuffled_classes(dataset, ipc, seed, each)])
    return dataset.train.images[index].clone(), dataset.train.labels[index].clone()


def shuffled_classes(dataset: Dataset, ipc: int, seed: int, each: int = 1) -> list[Tensor]:
    """Return the training images of every class in random order, int64 indices; see `random_subset`."""
    shuffled = []
    for label in range(dataset.num_classes):
        indices = dataset.train.indices_of(label)
        if len(indices) < ipc * each:
            formed = f" and a stored image begins as {each} real ones" if each > 1 else ""
            raise ValueError(
                f"distill.ipc is {ipc}{formed} but class {label} of {dataset.name} has {len(indices)} training images"
            )
        order = torch.randperm(len(indices), generator=generator(seed, "distill", "subset", label))
        shuffled.append(indices[order])
    return shuffled


class FixedImages(Distiller):
    """Base of the backbones that learn nothing: one iteration, which keeps the images as they are.

    Attributes:
        images: In network-input space, float32 (M, C, H, W), ordered by class.
        labels: int64 (M,), or probabilities float32 (M, K).
    """

    iterations = 1
    iteration = 0

    def step(self) -> float:
        """Count the one iteration; there is no loss, so 0 is returned."""
        self.iteration += 1
        return 0.0

    def state(self) -> dict[str, Tensor]:
        """Nothing changes, so nothing is kept but the iteration."""
        return {"iteration": torch.tensor(self.iteration)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.iteration = int(state["iteration"])


class RandomRealSubset(FixedImages):
    """The ``real`` backbone as a distiller: the images that were drawn."""

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device) -> None:
        self.images, self.labels = random_subset(dataset, config.ipc, seed)
