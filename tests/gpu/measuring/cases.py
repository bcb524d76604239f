"""The datasets, configs and trials that the sections share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_distill import distiller_of, random_dataset

from ddcal.config import DistillConfig, TrainConfig, TrialConfig
from ddcal.config.backbones import BACKBONES
from ddcal.data import Dataset, load_dataset
from ddcal.pipeline import DatasetCache, Environment, TrialRunner, open_store
from ddcal.seeding import generator
from measuring.task import Task

LEARNED = ("dc", "dsa", "dm", "mtt", "rtp")
"""Backbones whose steps are measured; `DISTILLED` has those too that learn nothing."""
DISTILLED = tuple(name for name, one in BACKBONES.items() if one.distills and not one.imports)
TRAJECTORIES: dict[str, Any] = {
    **{"student_steps": 4, "expert_epochs": 1, "max_start": 2, "image_lr": 3.0, "rate_lr": 1e-4, "rate": 0.05},
    "experts": {"count": 2, "batch_size": 8},
}
SHORT: dict[str, dict[str, Any]] = {
    "dc": {"matching": {"outer": 2, "inner": 2, "real_batch": 5, "inner_batch": 4}},
    "dsa": {"matching": {"outer": 2, "inner": 2, "real_batch": 5, "inner_batch": 4}},
    "dm": {"dm": {"real_batch": 5}},
    "mtt": {"mtt": TRAJECTORIES},
    "datm": {"mtt": TRAJECTORIES | {"first_max_start": 1, "expand_until": 2, "label_lr": 0.5}},
    "rtp": {"rtp": {"bases": 3, "steps": 4, "batch_per_class": 4, "real_batch": 5, "inner_lr": 0.05}},
}
"""Settings with which an iteration takes milliseconds."""


def small_config(backbone: str, **settings: Any) -> DistillConfig:
    """Return a config of a backbone with `SHORT` loops and a narrow network."""
    values = {"backbone": backbone, "ipc": 2, "iterations": 3, "network": {"width": 8, "depth": 2}}
    return DistillConfig.model_validate(values | SHORT.get(backbone, {}) | settings)


def small_dataset() -> Dataset:
    """Return 3 classes of 8 images of noise."""
    return random_dataset(3, 8)


def step_case(task: Task, backbone: str) -> dict[str, Any]:
    """Return what `bench_distill.distiller_of` takes: 10 classes, 10 images each, width 128."""
    width, classes, ipc, real, steps = (4, 2, 1, 2, 1) if task.pretended else (128, 10, 10, 256, 20)
    config: dict[str, Any] = {"backbone": backbone, "ipc": ipc, "iterations": 9, "network": {"width": width}}
    if backbone in ("dc", "dsa"):
        config["matching"] = {"outer": 1 if task.pretended else 2, "inner": 1, "real_batch": real}
    elif backbone == "dm":
        config["dm"] = {"real_batch": real}
    elif backbone == "mtt":
        mtt = {"student_steps": steps, "expert_epochs": 1, "max_start": 1, "image_lr": 10.0, "rate_lr": 1e-5}
        config["mtt"] = mtt | {"rate": 0.01}
    else:
        rtp = {"bases": 4, "steps": steps, "batch_per_class": ipc, "real_batch": max(1, real // 4)}
        config["rtp"] = rtp
    return {"config": config, "classes": classes, "per_class": real, "device": "cuda"}


def step_distiller(task: Task, backbone: str) -> Any:
    """Return the distiller of `step_case`."""
    return distiller_of(step_case(task, backbone))


def training_set(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 100 images (100, 3, 32, 32) of 10 classes, and their labels."""
    count = 10 if task.pretended else 100
    if task.data is not None:
        train = real_data(task.data).train
        chosen = torch.cat([(train.labels == label).nonzero()[: count // 10, 0] for label in range(10)])
        return train.images[chosen], train.labels[chosen]
    images = torch.randn(count, 3, 32, 32, generator=generator(0, "bench", "images"))
    return images, torch.arange(count) % 10


def real_data(root: str) -> Dataset:
    """Return CIFAR-10, normalized."""
    return load_dataset(TrialConfig.model_validate({"data": {"name": "cifar10", "root": root}}).data)


def recipe(task: Task, networks: int, **settings: Any) -> TrainConfig:
    """Return the evaluation training of DSA, DM and MTT: 1,000 epochs, width 128."""
    epochs, width = (2, 8) if task.pretended else (1000, 128)
    values = {"epochs": epochs, "augment": "dsa", "lr": 0.01, "batch_size": 256, "weight_decay": 5e-4}
    values |= {"schedule": "step", "networks": networks, "network": {"width": width}}
    return TrainConfig.model_validate(values | settings)


def write_arrays(folder: Path) -> Path:
    """Write a dataset of noise with a pattern a class, as a file, and return it."""
    draws = np.random.default_rng(0)
    patterns = draws.integers(0, 256, (4, 16, 16, 3))
    arrays = {}
    for part, count in (("train", 80), ("test", 16)):
        labels = np.arange(count) % 4
        noise = draws.integers(0, 256, (count, 16, 16, 3))
        arrays |= {f"x_{part}": ((patterns[labels] + noise) // 2).astype(np.uint8), f"y_{part}": labels}
    path = folder / "noise.npz"
    np.savez(path, **arrays)
    return path


def small_trial(task: Task, arrays: Path, backbone: str, **sections: Any) -> TrialConfig:
    """Return a whole trial with masks in distilling and calibrating, on real data where there is any."""
    if task.data is not None:
        data: dict[str, Any] = {"name": "cifar10", "root": task.data, "train_images": 5000}
    else:
        data = {"name": "npz", "root": str(arrays)}
    distill = small_config(backbone, mask={"ratio": 0.3} if backbone != "real" else {}).model_dump(
        mode="json", exclude_unset=True
    )
    values = {
        "data": data,
        "network": {"width": 8 if task.pretended else 32},
        "distill": distill | {"network": {}, "probe": {"points": 1, "epochs": 1}},
        "train": {"epochs": 2 if task.pretended else 20, "networks": 1 if task.pretended else 2, "lr": 0.01},
        "calibrate": {"method": "mts_distilled", "folds": 2},
    }
    return TrialConfig.model_validate({name: {**value, **sections.get(name, {})} for name, value in values.items()})


def finished_trial(config: TrialConfig, store: Path) -> TrialRunner:
    """Run a trial on the device to its end."""
    runner = TrialRunner(config, open_store(store), Environment("cuda", 1), datasets=DatasetCache(store / "derived"))
    runner.run()
    return runner
