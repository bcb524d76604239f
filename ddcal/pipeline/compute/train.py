"""Computing the train stage: the networks, and their logits on all that calibration and evaluation will ask for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddcal.calibration import score
from ddcal.compiling import compile_network
from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.datasets import dataset_spec
from ddcal.config.presets import DEFAULT_RATE
from ddcal.config.trial import held_out_per_class
from ddcal.data import Dataset
from ddcal.distill import SyntheticSet
from ddcal.errors import BadInput
from ddcal.networks import build_network
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.labels import labelled_set
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import BATCHES, QUIET, SCORED_IMAGES, images_like_train, score_seconds
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.train import POINTS, TRAIN, side_by_side
from ddcal.seeding import generator
from ddcal.soft_labels import targets
from ddcal.training import DDNNTraining, split_holdout
from ddcal.training.ddnn import AT_ONCE

NETWORKS = "networks.safetensors"
LOGITS = "logits.safetensors"


def begin(place: TrialPlace) -> TrainWork:
    """Return the stage before its first epoch."""
    there = place.environment
    return TrainWork(place.config, place.dataset, labelled_set(place), there.device, there.compile)


def logits_of(place: TrialPlace) -> dict[str, Tensor]:
    """Return the tensors of the finished stage: ``<split>_logits`` (n, N, K) and ``<split>_labels`` (N,).

    Labels of ``train`` and ``held`` are (N, K) where they are soft.
    """
    return load_file(place.entries[TRAIN.name].folder / LOGITS)


def test_set_of(place: TrialPlace) -> dict[str, int] | None:
    """Return of ``test``: ``images``, ``classes``, and ``largest``, the images of its most common class.

    None before the stage is finished, and of a trial that trains no networks.
    """
    entry = place.entries.get(TRAIN.name)
    if entry is None:
        return None
    with safe_open(entry.folder / LOGITS, framework="pt") as tensors:  # not the logits themselves
        labels, classes = tensors.get_tensor("test_labels"), tensors.get_slice("test_logits").get_shape()[-1]
    if not len(labels):
        return None
    return {"images": len(labels), "classes": classes, "largest": int(torch.bincount(labels).max())}


def networks_of(place: TrialPlace) -> list[torch.nn.Module]:
    """Return the networks of the finished stage where the trial computes."""
    weights = load_file(place.entries[TRAIN.name].folder / NETWORKS)
    networks = [one.to(place.environment.device) for one in load_networks(weights, place.config, place.dataset)]
    for network in networks if place.environment.compile else ():
        compile_network(network)
    return networks


class TrainWork:
    """The train stage: the networks, and their logits on everything that calibration and evaluation will ask for."""

    waited = 0.0

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        synthetic: SyntheticSet | None,
        device: str,
        compiled: bool = False,
    ) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        images, labels, held_images, held_labels = training_images(config, dataset, synthetic)
        self.images, self.labels, self.held_images, self.held_labels = images, labels, held_images, held_labels
        rate = training_rate(config, synthetic)
        self.training = DDNNTraining(
            images,
            labels,
            config.train.model_copy(update={"lr": rate}),
            num_classes=dataset.num_classes,
            flip=dataset_spec(dataset.name).flips,
            seed=config.seed,
            device=device,
            precision=None,
            compiled=compiled,
            side_by_side=side_by_side(config),
        )
        self.curve: list[dict[str, float]] = []
        self._val_logits: list[Tensor] | None = None  # of the weights as they are now

    @property
    def fraction(self) -> float:
        """The share of the epochs that is done."""
        return self.training.epoch / self.training.epochs

    def step(self) -> None:
        """Train every network for one epoch, and score them on ``val`` if a fidelity point is reached."""
        self._val_logits = None
        loss = self.training.step()
        reached = int(POINTS * self.training.epoch / self.training.epochs + 1e-9)
        if reached > len(self.curve):
            metrics = self._score()
            while len(self.curve) < reached:
                self.curve.append({"fraction": (len(self.curve) + 1) / POINTS, "loss": loss, **metrics})

    def state(self) -> dict[str, Any]:
        """Return networks, momentum, epoch and the curve so far."""
        return {"training": self.training.state(), "curve": self.curve}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.training.restore(state["training"])
        self._val_logits = None
        self.curve = [dict(point) for point in state["curve"]]

    def write(self, folder: Path) -> None:
        """Write the networks, and their logits (n, N, K) on training, held-out, val and test images with the labels."""
        networks = self.training.networks
        weights = {
            f"{index}.{name}": value.detach().cpu().contiguous()
            for index, network in enumerate(networks)
            for name, value in network.state_dict().items()
        }
        save_file(weights, folder / NETWORKS)
        tensors: dict[str, Tensor] = {}
        for name, images, labels in (
            ("train", self.images, self.labels),
            ("held", self.held_images, self.held_labels),
            ("val", self.dataset.val.images, self.dataset.val.labels),
            ("test", self.dataset.test.images, self.dataset.test.labels),
        ):
            logits = self._of_val() if name == "val" else self._of_each(images)
            tensors[f"{name}_logits"], tensors[f"{name}_labels"] = torch.stack(logits), labels.cpu().clone()
        save_file(tensors, folder / LOGITS)

    def meta(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""

    def _of_val(self) -> list[Tensor]:
        """Return what each network says of ``val``: asked once for the last point of the curve and for the result."""
        if self._val_logits is None:
            self._val_logits = self._of_each(self.dataset.val.images)
        return self._val_logits

    def _of_each(self, images: Tensor) -> list[Tensor]:
        return [self._logits(index, images) for index in range(len(self.training.networks))]

    def _logits(self, index: int, images: Tensor) -> Tensor:
        if len(images) == 0:
            return torch.zeros(0, self.dataset.num_classes)
        return self.training.predict(index, images.to(self.device)).cpu().contiguous()

    def _score(self) -> dict[str, float]:
        val = self.dataset.val
        if len(val) == 0:
            return {}
        scores = [score(logits, val.labels) for logits in self._of_val()]
        return {name: math.fsum(s[name] for s in scores) / len(scores) for name in scores[0]}


def training_rate(config: TrialConfig, synthetic: SyntheticSet | None) -> float:
    """Return the learning rate of a resolved trial's networks: the config's, or that learned with the set."""
    return config.train.lr or (synthetic.learning_rate if synthetic is not None else None) or DEFAULT_RATE


def training_images(
    config: TrialConfig, dataset: Dataset, synthetic: SyntheticSet | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (images, labels, held-out images, held-out labels) of the train stage, soft labels as they are.

    Args:
        config: Resolved.
        dataset: The real data, which an FDNN (``synthetic`` None) trains on.
        synthetic: The distilled set of a DDNN.

    Raises:
        BadInput: if ``train.holdout`` leaves none to train on.
    """
    if synthetic is None:
        split = dataset.train
        return split.images, split.labels, split.images[:0], split.labels[:0]
    there = synthetic.images_per_class
    held = held_out_per_class(there, config.train.holdout)
    if held >= there:
        raise BadInput(
            f"train.holdout {config.train.holdout:g} leaves none of the {there} distilled images of a class to train "
            "on: lower it"
        )
    kept_index, held_index = split_holdout(synthetic.classes, held, config.seed)
    labels = targets(synthetic.labels)
    return synthetic.images[kept_index], labels[kept_index], synthetic.images[held_index], labels[held_index]


def load_networks(weights: dict[str, Tensor], config: TrialConfig, dataset: Dataset) -> list[torch.nn.Module]:
    """Return the networks of a train stage, in order, in ``eval()`` mode on the CPU."""
    networks: list[torch.nn.Module] = []
    for index in range(config.train.networks):
        network = build_network(
            config.train.network.over(NetworkConfig()),
            dataset.channels,
            dataset.image_size,
            dataset.num_classes,
            generator(0, "load", "network"),
        )
        prefix = f"{index}."
        network.load_state_dict(
            {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        )
        networks.append(network.eval())
    return networks


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of an epoch of a network, of scoring it, and of its logits."""
    batch = config.train.batch_size
    assert batch, "the config must be resolved"
    images, labels, total = images_like_train(config, dataset, BATCHES * batch)
    networks = min(config.train.networks, AT_ONCE) if side_by_side(config) else 1
    training = quiet_training(config, dataset, images, labels, device, compiled, networks)
    batches = math.ceil(total / batch) / math.ceil(len(images) / batch)
    step = batches * measuring.seconds_of(training.step, device) / networks
    point = score_seconds(training, dataset, len(dataset.val), device)
    shown = dataset.test.images[:SCORED_IMAGES].to(device)
    logits = measuring.seconds_of(lambda: training.predict(0, shown).cpu(), device) / max(1, len(shown))
    return Cost(step, point, logits * (total + len(dataset.val) + len(dataset.test)))


def quiet_training(
    config: TrialConfig,
    dataset: Dataset,
    images: Tensor,
    labels: Tensor,
    device: str,
    compiled: bool = False,
    networks: int = 1,
) -> DDNNTraining:
    """Return the training of networks, side by side where there are several, at a rate at which nothing diverges."""
    return DDNNTraining(
        images,
        labels,
        config.train.model_copy(update={"networks": networks, "lr": QUIET}),
        num_classes=dataset.num_classes,
        flip=dataset_spec(dataset.name).flips,
        seed=config.seed,
        device=device,
        precision=None,
        compiled=compiled,
        side_by_side=networks > 1,
    )
