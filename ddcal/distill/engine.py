"""One entry to all backbones: a distiller that steps, keeps its state, and gives a `SyntheticSet`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ddcal import __version__
from ddcal.config import DistillConfig, TrialConfig, resolve
from ddcal.data import Dataset
from ddcal.distill.matching import GradientMatching
from ddcal.distill.real import RandomRealSubset
from ddcal.distill.synthetic import SyntheticSet


class Distiller(Protocol):
    """What every backbone is: ``iterations`` calls of `step`, with a state between any two of them."""

    images: Tensor
    labels: Tensor
    iterations: int
    iteration: int

    def step(self) -> float:
        """Run one iteration and return its loss."""

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on bit-exactly."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""


BACKBONES: dict[str, Callable[[Dataset, DistillConfig, int, torch.device], Distiller]] = {
    "real": RandomRealSubset,
    "dc": GradientMatching,
    "dsa": GradientMatching,
}


def make_distiller(dataset: Dataset, config: DistillConfig, seed: int, device: torch.device | str = "cpu") -> Distiller:
    """Return the distiller of ``config.backbone`` at iteration 0; settings left out take the published values.

    Raises:
        ValueError: for ``backbone: full``, which distills nothing, or an ``ipc`` that the dataset cannot give.
    """
    if config.backbone not in BACKBONES:
        raise ValueError(f"distill.backbone is {config.backbone!r}, which distills nothing: use {', '.join(BACKBONES)}")
    resolved = resolve(TrialConfig(distill=config)).distill
    return BACKBONES[config.backbone](dataset, resolved, seed, torch.device(device))


def synthetic_set(distiller: Distiller, dataset: Dataset, config: DistillConfig, seed: int) -> SyntheticSet:
    """Return the distiller's present images as a self-describing set."""
    preprocessing = dataset.preprocessing.to_tensors()
    small = {name: value for name, value in preprocessing.items() if value.numel() <= 4096}
    provenance: dict[str, Any] = {
        "backbone": config.backbone,
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "iterations": distiller.iteration,
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "preprocessing": dataset.preprocessing.kind,
        "versions": {"ddcal": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return SyntheticSet(
        images=distiller.images.detach().cpu().clone(),
        labels=distiller.labels.cpu().clone(),
        ipc=config.ipc,
        provenance=provenance,
        preprocessing=small,
    )


def distill(
    dataset: Dataset,
    config: DistillConfig,
    seed: int,
    on_progress: Callable[[int, int, float], None] | None = None,
    device: str = "cpu",
) -> SyntheticSet:
    """Distill ``dataset.train`` as ``config`` says.

    Args:
        dataset: From `ddcal.data.load_dataset`; only ``train`` is read.
        config: Backbone, ipc, mask and loops; settings left out take the published values.
        seed: Every random number derives from it: same config, seed and machine give the same bits on the CPU.
        on_progress: Called after every iteration with (iteration, iterations, loss).
        device: Where to compute, ``"cpu"`` or ``"cuda"``.

    Raises:
        DivergedError: if the loss becomes NaN or infinite.
        ValueError: as `make_distiller`.
    """
    distiller = make_distiller(dataset, config, seed, device)
    while distiller.iteration < distiller.iterations:
        loss = distiller.step()
        if on_progress is not None:
            on_progress(distiller.iteration, distiller.iterations, loss)
    return synthetic_set(distiller, dataset, config, seed)
