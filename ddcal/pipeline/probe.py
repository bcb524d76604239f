"""Measuring what the kinds of stages cost on this machine: a few steps of each, in this process, nothing published."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from ddcal.calibration import TemperatureScaling, fit_masked, masked_logits, score
from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.calibrations import MASK_METHODS
from ddcal.config.trial import DATASETS_WITHOUT_FLIP, folds_of, held_out_per_class
from ddcal.data import Dataset, Split
from ddcal.distill import images_per_class, make_distiller
from ddcal.distill.engine import Distiller
from ddcal.distill.experts import Experts, ExpertTraining, kept_epochs, skeleton
from ddcal.distill.matching import GradientMatching
from ddcal.errors import BadInput
from ddcal.networks import build_network
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.diagram import DIAGRAM, draw_diagram
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.finish import calibrate, evaluate
from ddcal.pipeline.footprint import MASKED_RATIOS
from ddcal.pipeline.work import probe_training
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
        stage: One of `ddcal.pipeline.keys.STAGES`.
        dataset: The trial's data.
        environment: Where the stage would compute.

    Raises:
        BadInput: if the dataset cannot give the images that the trial asks for.
    """
    environment.apply()
    cuda = environment.device != "cpu"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        cost = MEASURES[stage](config, dataset, environment.device)
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
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _experts(config: TrialConfig, dataset: Dataset, device: str) -> Cost:
    mtt, batch = config.distill.mtt, config.distill.mtt.experts.batch_size
    total, measured = len(dataset.train), BATCHES * batch
    quiet = mtt.experts.model_copy(update={"lr": QUIET})
    distill = config.distill.model_copy(update={"mtt": mtt.model_copy(update={"experts": quiet})})
    part = replace(dataset, train=Split(dataset.train.images[:measured], dataset.train.labels[:measured]))
    training = ExpertTraining(part, distill, config.seed, 0, torch.device(device))
    return Cost(seconds_of(training.step, device) * math.ceil(total / batch) / math.ceil(len(part.train) / batch))


def _distill(config: TrialConfig, dataset: Dataset, device: str) -> Cost:
    matching = config.distill.matching.model_copy(update={"image_lr": QUIET, "network_lr": QUIET})
    mtt = config.distill.mtt.model_copy(update={"image_lr": QUIET, "rate_lr": QUIET})
    distill = config.distill.model_copy(update={"matching": matching, "mtt": mtt})
    experts = made_up_experts(config, dataset) if distill.backbone == "mtt" else None
    began = time.perf_counter()
    distiller = make_distiller(dataset, distill, config.seed, torch.device(device), experts)
    once = time.perf_counter() - began
    step = iteration_seconds(distiller, device)
    point = 0.0
    if config.distill.probe.points and len(dataset.val):
        training = probe_training(config, dataset, distiller.images.detach(), distiller.labels, device)
        epochs, val = config.distill.probe.epochs, dataset.val.images[: config.distill.probe.images]
        point = epochs * _epoch_seconds(training, device) + _score_seconds(training, dataset, len(val), device)
    return Cost(step, point, once)


def made_up_experts(config: TrialConfig, dataset: Dataset) -> Experts:
    """Return one expert that never trained: an iteration costs the same with any."""
    network = skeleton(dataset, config.distill, generator(config.seed, "plan", "expert"))
    start = parameters_to_vector(network.parameters()).detach()
    epochs = torch.arange(kept_epochs(config.distill) + 1)
    return Experts([start * (1.0 + 0.01 * epochs[:, None])])


def iteration_seconds(distiller: Distiller, device: str) -> float:
    """Return the seconds of one iteration of a distiller, which is run a few times.

    An iteration of gradient matching is ``outer`` image updates with ``inner`` epochs between any two of them. Where
    that takes long, shorter iterations are timed: of one update, of two updates with one epoch, and with several.
    """
    if not isinstance(distiller, GradientMatching):
        return seconds_of(distiller.step, device)
    outer, inner = distiller.outer, distiller.inner
    try:
        distiller.outer = 1
        update = seconds_of(distiller.step, device)
        if outer == 1:
            return update
        distiller.outer, distiller.inner = 2, 1
        two = seconds_of(distiller.step, device)
        epoch = max(two - 2 * update, 0.01 * update)
        if outer * update + (outer - 1) * inner * epoch < LONG_SECONDS:
            distiller.outer, distiller.inner = outer, inner
            return seconds_of(distiller.step, device)
        several = min(inner, max(2, round(2 * update / epoch)))
        if several > 1:
            distiller.inner = several
            epoch = max(0.0, (seconds_of(distiller.step, device) - two) / (several - 1))
        return outer * update + (outer - 1) * inner * epoch
    finally:
        distiller.outer, distiller.inner = outer, inner


def _train(config: TrialConfig, dataset: Dataset, device: str) -> Cost:
    batch = config.train.batch_size
    assert batch, "the config must be resolved"
    images, labels, total = _training_images(config, dataset, BATCHES * batch)
    training = _training(config, dataset, images, labels, device)
    batches = math.ceil(total / batch) / math.ceil(len(images) / batch)
    step = batches * _epoch_seconds(training, device)
    point = _score_seconds(training, dataset, len(dataset.val), device)
    shown = dataset.test.images[:SCORED_IMAGES].to(device)
    logits = seconds_of(lambda: training.predict(0, shown).cpu(), device) / max(1, len(shown))
    return Cost(step, point, logits * (total + len(dataset.val) + len(dataset.test)))


def _folds(config: TrialConfig, dataset: Dataset, device: str) -> Cost:
    batch, folds = config.train.batch_size, folds_of(config)
    assert batch, "the config must be resolved"
    images, labels, total = _training_images(config, dataset)
    kept = total - total // folds
    shown = min(kept, BATCHES * batch)
    training = _training(config, dataset, images[:shown], labels[:shown], device)
    batches = math.ceil(kept / batch) / math.ceil(shown / batch)
    step = batches * _epoch_seconds(training, device)
    held = images[:SCORED_IMAGES].to(device)
    once = seconds_of(lambda: training.predict(0, held).cpu(), device) / len(held) * total / folds
    return Cost(step, once=once)


def _training(config: TrialConfig, dataset: Dataset, images: Tensor, labels: Tensor, device: str) -> DDNNTraining:
    return DDNNTraining(
        images,
        labels,
        config.train.model_copy(update={"networks": 1, "lr": QUIET}),
        num_classes=dataset.num_classes,
        flip=dataset.name not in DATASETS_WITHOUT_FLIP,
        seed=config.seed,
        device=device,
    )


def _calibrate(config: TrialConfig, dataset: Dataset, device: str) -> Cost:
    settings = config.calibrate
    if settings.method == "none":
        return Cost(0.0)
    if settings.method not in MASK_METHODS:
        logits = _random_logits(config, dataset)
        one = config.model_copy(update={"train": config.train.model_copy(update={"networks": 1})})
        folds = {"logits": logits["train_logits"][0], "labels": logits["train_labels"]}
        return Cost(seconds_of(lambda: calibrate(one, logits, None, folds), device, math.inf))
    if config.distill.backbone == "full":
        images, labels = dataset.val.images, dataset.val.labels
    else:
        images, labels, _ = _training_images(config, dataset)
    network = build_network(
        config.train.network.over(NetworkConfig()),
        dataset.channels,
        dataset.image_size,
        dataset.num_classes,
        generator(config.seed, "plan", "network"),
    ).to(device)
    images, labels = images.to(device), labels.to(device)
    draws = min(settings.draws, 2)
    chosen = settings.method == "mts_distilled"
    ratio = 0.5 if chosen else settings.mask.ratio

    def fit() -> object:
        logits, used = masked_logits(network, images, labels, ratio, draws, config.seed, settings.mask.unit)
        return fit_masked(logits, used, settings.bounds, settings.solver)

    looks = MASKED_RATIOS if chosen else 1
    return Cost(looks * seconds_of(fit, device, math.inf) * settings.draws / draws)  # the first call imports scipy


def _evaluate(config: TrialConfig, dataset: Dataset, device: str) -> Cost:
    logits = _random_logits(config, dataset)
    values = {"fits": [{"temperature": 1.0, "at_bound": False}] * config.train.networks}
    calibrators = [TemperatureScaling(temperature=1.0)] * config.train.networks
    with tempfile.TemporaryDirectory(prefix="ddcal-") as folder:
        return Cost(
            seconds_of(
                lambda: draw_diagram(evaluate(config, logits, calibrators, values), config, Path(folder) / DIAGRAM),
                device,
                math.inf,  # the first call imports matplotlib
            )
        )


def _epoch_seconds(training: DDNNTraining, device: str) -> float:
    return seconds_of(training.step, device)


def _score_seconds(training: DDNNTraining, dataset: Dataset, count: int, device: str) -> float:
    """Seconds to score one network on ``count`` images of ``val``."""
    shown = min(count, SCORED_IMAGES)
    if shown == 0:
        return 0.0
    images, labels = dataset.val.images[:shown].to(device), dataset.val.labels[:shown]
    return seconds_of(lambda: score(training.predict(0, images).cpu(), labels), device) * count / shown


def _training_images(config: TrialConfig, dataset: Dataset, most: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Return at most ``most`` images and labels like those of the train stage, and how many there are in all."""
    if config.distill.backbone == "full":
        images, labels = dataset.train.images, dataset.train.labels
    else:
        count = images_per_class(config.distill, dataset.num_classes, dataset.channels, dataset.image_size)
        count -= held_out_per_class(count, config.train.holdout)
        shape = (count * dataset.num_classes, dataset.channels, dataset.image_size, dataset.image_size)
        images = torch.randn(shape, generator=generator(config.seed, "plan", "images"))
        labels = torch.arange(len(images)) % dataset.num_classes
    return images[:most], labels[:most], len(images)


def _random_logits(config: TrialConfig, dataset: Dataset) -> dict[str, Tensor]:
    """Return tensors like those of the train stage, of random numbers."""
    trained = len(dataset.train)
    held = 0
    if config.distill.backbone != "full":
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


MEASURES: dict[str, Callable[[TrialConfig, Dataset, str], Cost]] = {
    "experts": _experts,
    "distill": _distill,
    "train": _train,
    "folds": _folds,
    "calibrate": _calibrate,
    "evaluate": _evaluate,
}
