"""Measuring what stages cost on this machine: a few steps of each, in this process, nothing published.

Each stage measures itself (``measure`` of its work); here is what they share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ddcal.calibration import score
from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.trial import held_out_per_class
from ddcal.data import Dataset
from ddcal.distill import images_per_class
from ddcal.errors import BadInput
from ddcal.networks import Network, build_network
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.stages import STAGES
from ddcal.seeding import generator
from ddcal.training import DDNNTraining

ENOUGH_SECONDS = 0.2
"""How long a call is repeated after its warm-up."""

LONG_SECONDS = 2.0
"""A first call longer than this is its own measurement: warming up matters less than repeating it would cost."""

SCORED_IMAGES = 1024
"""Scoring is measured on so many images."""

BATCHES = 4
"""An epoch is measured on at most so many batches."""

QUIET = 1e-6
"""Learning rates while measuring, so that nothing diverges; a step costs the same at any."""


def measure(config: TrialConfig, stage: str, dataset: Dataset, environment: Environment) -> Cost:
    """Return what a stage of this trial costs on this machine.

    The process's thread count becomes that of ``environment``.

    Args:
        config: Resolved.
        stage: One of `ddcal.pipeline.stages.STAGES`.
        dataset: The trial's data.
        environment: Where the stage would compute.

    Raises:
        BadInput: if the dataset cannot give the images that the trial asks for.
    """
    environment.apply()
    cuda = environment.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(1 + environment.compile):  # the first time compiles
            cost = STAGES[stage].work.measure(config, dataset, environment.device, environment.compile)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return replace(cost, gpu_bytes=torch.cuda.max_memory_allocated() if cuda else None)


def seconds_of(call: Callable[[], object], device: str, long: float = LONG_SECONDS) -> float:
    """Return the mean seconds of a call after a warm-up, or of its first one if that is longer than ``long``."""
    first = _timed(call, device)
    if first > long:
        return first
    total, calls = 0.0, 0
    while total < ENOUGH_SECONDS:
        total += _timed(call, device)
        calls += 1
    return total / calls


def _timed(call: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - began


def score_seconds(training: DDNNTraining, dataset: Dataset, count: int, device: str) -> float:
    """Return the seconds to score one network on ``count`` images of ``val``."""
    shown = min(count, SCORED_IMAGES)
    if shown == 0:
        return 0.0
    images, labels = dataset.val.images[:shown].to(device), dataset.val.labels[:shown]
    return seconds_of(lambda: score(training.predict(0, images).cpu(), labels), device) * count / shown


def images_like_train(config: TrialConfig, dataset: Dataset, most: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Return at most ``most`` images and labels like those of the train stage, and how many there are in all."""
    if not config.distill.spec.distills:
        images, labels = dataset.train.images, dataset.train.labels
    else:
        count = images_per_class(config.distill, dataset.num_classes, dataset.channels, dataset.image_size)
        count -= held_out_per_class(count, config.train.holdout)
        shape = (count * dataset.num_classes, dataset.channels, dataset.image_size, dataset.image_size)
        images = torch.randn(shape, generator=generator(config.seed, "plan", "images"))
        labels = torch.arange(len(images)) % dataset.num_classes
    return images[:most], labels[:most], len(images)


def random_logits(config: TrialConfig, dataset: Dataset) -> dict[str, Tensor]:
    """Return tensors like those of the train stage, of random numbers."""
    trained = len(dataset.train)
    held = 0
    if config.distill.spec.distills:
        count = images_per_class(config.distill, dataset.num_classes, dataset.channels, dataset.image_size)
        held = held_out_per_class(count, config.train.holdout) * dataset.num_classes
        trained = count * dataset.num_classes - held
    stream = generator(config.seed, "plan", "logits")
    tensors = {}
    for name, count in (("train", trained), ("held", held), ("val", len(dataset.val)), ("test", len(dataset.test))):
        shape = (config.train.networks, count, dataset.num_classes)
        tensors[f"{name}_logits"] = 3.0 * torch.randn(shape, generator=stream)
        tensors[f"{name}_labels"] = torch.arange(count) % dataset.num_classes
    return tensors


def untrained_network(config: TrialConfig, dataset: Dataset, device: str) -> Network:
    """Return a network of a resolved trial as it is before training: it takes as long as a trained one."""
    network = config.train.network.over(NetworkConfig())
    draws = generator(config.seed, "plan", "network")
    return build_network(network, dataset.channels, dataset.image_size, dataset.num_classes, draws).to(device)
