"""Every backbone, training and network beside the CPU, which the tests prove right: how far float32 rounds apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddcal.calibration import masked_temperature_scaling
from ddcal.config import NetworkConfig
from ddcal.config.networks import ARCHITECTURES
from ddcal.distill import make_distiller
from ddcal.masking import mask_images
from ddcal.networks import build_network, predict_logits
from ddcal.seeding import generator
from ddcal.training import DDNNTraining
from measuring.cases import DISTILLED, recipe, small_config, small_dataset
from measuring.task import Row, Task, each_in_time

TOLERANCE = 1e-4
"""Of the relative distance ‖GPU − CPU‖ / ‖CPU‖. Convolutions of two libraries round differently: here, with oneDNN and
without it on one CPU, by 5e-6 at most (measured). TF32, which must be off, is near 1e-3; a wrong sign, index or random
number is beyond 0.1."""


def measure(task: Task) -> Iterator[Row]:
    """Yield a row for each backbone, training, network, and for masks."""
    checks: dict[str, Callable[[], tuple[float | None, float]]] = {}
    for backbone in DISTILLED:
        checks[f"distill {backbone}"] = lambda backbone=backbone: distilled(backbone)  # type: ignore[misc]
    for name, settings in {"dsa": {}, "mixup": {"loss": "mixup"}, "crop_flip": {"augment": "crop_flip"}}.items():
        checks[f"train {name}"] = lambda settings=settings: trained(task, settings)  # type: ignore[misc]
    for name in ARCHITECTURES:
        checks[f"predict {name}"] = lambda name=name: predicted(name)  # type: ignore[misc]
    checks["mts"] = lambda: calibrated(task)
    with task.on_the_device():
        for (name, check), _ in each_in_time(task, list(checks.items()), lambda item: item[0]):
            loss, change = check()
            yield {
                "name": name,
                "loss_error": loss,
                "error": change,
                "tolerance": TOLERANCE,
                "right": is_right(loss, change),
            }
        images = torch.ones(64, 3, 16, 16)
        here, there = (
            mask_images(images.to(device), 0.4, generator(0, "test", "mask")).cpu() for device in ("cpu", "cuda")
        )
        differing = int((here != there).sum())
        yield {"name": "masks", "loss_error": None, "error": float(differing), "tolerance": 0.0, "right": not differing}


def is_right(loss: float | None, change: float) -> bool:
    """Return whether both errors are within `TOLERANCE`; one that is NaN is not."""
    return change <= TOLERANCE and (loss is None or loss <= TOLERANCE)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖."""
    found, wanted = found.detach().cpu().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def distilled(backbone: str) -> tuple[float, float]:
    """Return the errors of a first iteration's loss, and of what it changes."""
    dataset, config = small_dataset(), small_config(backbone)
    losses, moves = [], []
    for device in ("cpu", "cuda"):
        distiller = make_distiller(dataset, config, 0, device)
        before = distiller.images.detach().cpu().clone()
        losses.append(distiller.step())
        after = distiller.images.detach().cpu()
        moves.append(after - before if bool((after != before).any()) else after)
    return abs(losses[1] - losses[0]) / max(abs(losses[0]), 1e-30), relative(moves[1], moves[0])


def trained(task: Task, settings: dict[str, str]) -> tuple[float, float]:
    """Return the errors of a third epoch's loss, and of the logits after it."""
    dataset = small_dataset()
    config = recipe(
        task, 2, **{"epochs": 3, "batch_size": 8, "lr": 0.05, "network": {"width": 8, "depth": 2}}, **settings
    )
    losses, logits = [], []
    for device in ("cpu", "cuda"):
        images, labels = dataset.train.images, dataset.train.labels
        training = DDNNTraining(images, labels, config, num_classes=3, flip=True, seed=0, device=device)
        losses.append([training.step() for _ in range(3)][-1])
        logits.append(training.predict(0, images))
    return abs(losses[1] - losses[0]) / abs(losses[0]), relative(logits[1], logits[0])


def predicted(name: str) -> tuple[None, float]:
    """Return nothing of a loss, and the error of the logits of a network at its own width."""
    images = torch.randn(4, 3, 32, 32, generator=generator(0, "test", "images"))
    network = build_network(NetworkConfig(name=name, width=None), 3, 32, 4, generator(0, "test", "network"))
    wanted = predict_logits(network, images)
    return None, relative(predict_logits(network.to("cuda"), images.to("cuda")), wanted)


def calibrated(task: Task) -> tuple[float, float]:
    """Return the errors of the likelihood and the temperature of masked temperature scaling."""
    dataset = small_dataset()
    config = recipe(task, 1, epochs=30, batch_size=8, lr=0.05, network={"width": 8, "depth": 2})
    if task.pretended:
        config = config.model_copy(update={"epochs": 2})
    images, labels = dataset.train.images, dataset.train.labels
    training = DDNNTraining(images, labels, config, num_classes=3, flip=True, seed=0)
    while training.epoch < training.epochs:
        training.step()
    network = training.networks[0]
    here = masked_temperature_scaling(network, images, labels, 0.5, draws=2)
    there = masked_temperature_scaling(network.to("cuda"), images.to("cuda"), labels.to("cuda"), 0.5, draws=2)
    return abs(there.nll - here.nll) / here.nll, abs(there.temperature - here.temperature) / here.temperature
