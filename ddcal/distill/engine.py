"""One entry to all backbones: a distiller that steps, keeps its state, and gives a `SyntheticSet`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from ddcal import __version__
from ddcal.allocator import keep_freed_memory
from ddcal.config import DistillConfig
from ddcal.config.backbones import BACKBONES
from ddcal.config.components import ComponentError, imported_object
from ddcal.config.resolved import resolve_distill
from ddcal.data import Dataset
from ddcal.distill.distiller import Distiller
from ddcal.distill.experts import Experts, train_experts
from ddcal.distill.synthetic import SyntheticSet
from ddcal.precision import Precision, state_determinism, state_precision


def images_per_class(config: DistillConfig, classes: int, channels: int, size: int) -> int:
    """Return how many images of every class a distilled set will hold.

    Args:
        config: Resolved; not of ``backbone: full``.
        classes: Classes of the dataset.
        channels: Channels of its images.
        size: Their height and width, in pixels.

    Raises:
        ValueError: if bases leave no room for coefficients.
    """
    return config.spec.images_per_class(config, classes, channels, size)


def make_distiller(
    dataset: Dataset,
    config: DistillConfig,
    seed: int,
    device: torch.device | str = "cpu",
    experts: Experts | None = None,
    precision: Precision | None = "float32",
    compiled: bool = False,
) -> Distiller:
    """Return the distiller of ``config.backbone`` at iteration 0; settings left out take the published values.

    Args:
        dataset: From `ddcal.data.load_dataset`; only ``train`` is read.
        config: Which backbone, and its settings.
        seed: The trial's seed.
        device: Where to compute.
        experts: What ``mtt`` matches and coresets ask; trained here and now if there are none. Others ignore them.
        precision: Stated for this process (`ddcal.precision`); None leaves it as it is.
        compiled: Whether loops of first derivatives are compiled, in a process that `ddcal.compiling` has prepared.

    Raises:
        ValueError: for ``backbone: full``, which distills nothing, an ``ipc`` that the dataset cannot give, or bases
            (RTP) that leave no room for coefficients.
    """
    if precision is not None:
        state_precision(precision)
    state_determinism(device)
    resolved = resolve_distill(config, dataset.name)
    spec = resolved.spec
    if not spec.distills:
        others = ", ".join(name for name, one in BACKBONES.items() if one.distills)
        raise ValueError(f"distill.backbone is {config.backbone!r}, which distills nothing: use {others}")
    make = imported_object("backbone", config.backbone, spec.distiller)
    if spec.takes_experts:
        count = spec.experts(resolved)
        experts = experts or train_experts(dataset, resolved, seed, torch.device(device), compiled, count)
        made = make(dataset, resolved, seed, torch.device(device), experts)
    else:
        made = make(dataset, resolved, seed, torch.device(device))
    if not isinstance(made, Distiller):
        raise ComponentError(
            f"distill.backbone {config.backbone!r}: {spec.distiller} makes a {type(made).__name__}; it must be a "
            "ddcal.distill.Distiller"
        )
    made.compiled = compiled
    return made


def synthetic_set(distiller: Distiller, dataset: Dataset, config: DistillConfig, seed: int) -> SyntheticSet:
    """Return the distiller's present images as a self-describing set."""
    preprocessing = dataset.preprocessing.to_tensors()
    small = {name: value for name, value in preprocessing.items() if value.numel() <= 4096}
    provenance: dict[str, Any] = {
        "backbone": config.backbone,
        "config": config.model_dump(mode="json", exclude={"file"}),
        "seed": seed,
        "iterations": distiller.iteration,
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "preprocessing": dataset.preprocessing.kind,
        "versions": {"ddcal": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    provenance |= distiller.provenance
    return SyntheticSet(
        images=distiller.images.detach().cpu().clone(),
        labels=distiller.labels.cpu().clone(),
        ipc=config.ipc,
        learning_rate=distiller.learning_rate,
        provenance=provenance,
        preprocessing=small,
    )


def distill(
    dataset: Dataset,
    config: DistillConfig,
    seed: int,
    on_progress: Callable[[int, int, float], None] | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
) -> SyntheticSet:
    """Distill ``dataset.train`` as ``config`` says.

    Args:
        dataset: From `ddcal.data.load_dataset`; only ``train`` is read.
        config: Backbone, ipc, mask and loops; settings left out take the published values.
        seed: Every random number derives from it: same config, seed and machine give the same bits on the CPU.
        on_progress: Called after every iteration with (iteration, iterations, loss).
        device: Where to compute, ``"cpu"`` or ``"cuda"``.
        precision: Stated for this process (`ddcal.precision`).

    Raises:
        DivergedError: if a loss becomes NaN or infinite, or explodes (`ddcal.divergence`).
        ValueError: as `make_distiller`.
    """
    keep_freed_memory()
    distiller = make_distiller(dataset, config, seed, device, precision=precision)
    while distiller.iteration < distiller.iterations:
        loss = distiller.step()
        if on_progress is not None:
            on_progress(distiller.iteration, distiller.iterations, loss)
    return synthetic_set(distiller, dataset, config, seed)
