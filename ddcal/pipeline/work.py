"""The two long stages, distill and train, as work that goes on in small steps and can stop between any two of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from ddcal.calibration import score
from ddcal.config import TrainConfig, TrialConfig
from ddcal.config.presets import DEFAULT_RATE, TRAIN_DEFAULTS, preset
from ddcal.config.trial import DATASETS_WITHOUT_FLIP, held_out_per_class
from ddcal.data import Dataset
from ddcal.distill import SyntheticSet, make_distiller, synthetic_set
from ddcal.distill.experts import Experts
from ddcal.distill.imported import ImportedImages
from ddcal.distill.mtt import TrajectoryMatching
from ddcal.pipeline.keys import stage_config
from ddcal.pipeline.pictures import StagePictures
from ddcal.training import DDNNTraining, split_holdout

TRAIN_POINTS = 4
NETWORKS = "networks.safetensors"
LOGITS = "logits.safetensors"

GRADIENT_COSINE = "distill/gradient_cosine"
"""The metric that says how near an approximate gradient is to the exact one."""


class StageWork(Protocol):
    """An unfinished stage.

    Attributes:
        curve: The fidelity points passed so far: ``{"fraction": of the stage, <metric>: value, …}``.
        fraction: The share of the stage's work that is done, in [0, 1].
        waited: Seconds spent waiting for other processes.
    """

    curve: list[dict[str, float]]
    waited: float

    @property
    def fraction(self) -> float:
        """The share of the work that is done."""

    def step(self) -> None:
        """Do the smallest piece of work; appends to ``curve`` where a fidelity point is passed."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on bit-exactly."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""

    def write(self, folder: Path) -> None:
        """Write the finished stage's files."""

    def meta(self) -> dict[str, Any]:
        """Return what the manifest records of the finished stage beside what every one does: ``facts`` are metrics."""

    def close(self) -> None:
        """Give back what other processes may wait for; `step` may be called again."""


class DistillWork:
    """The distill stage: a distiller, and a short probe network's ``val`` score at fixed fractions of them."""

    waited = 0.0

    def __init__(self, config: TrialConfig, dataset: Dataset, device: str, experts: Experts | None = None) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.distiller = make_distiller(dataset, config.distill, config.seed, device, experts)
        self.curve: list[dict[str, float]] = []
        self.pictures = StagePictures(self.distiller, dataset)

    @property
    def fraction(self) -> float:
        """The share of the iterations that is done."""
        return self.distiller.iteration / self.distiller.iterations

    def step(self) -> None:
        """Run one iteration, and the probe if a fidelity point is reached."""
        self.pictures.note()
        loss = self.distiller.step()
        self.pictures.note()
        points, total = self.config.distill.probe.points, self.distiller.iterations
        reached = sum(1 for k in range(1, points + 1) if self.distiller.iteration >= math.ceil(k * total / points))
        if reached > len(self.curve):
            metrics = self._probe() | self._gradient_cosine()
            while len(self.curve) < reached:
                self.curve.append({"fraction": (len(self.curve) + 1) / points, "loss": loss, **metrics})

    def state(self) -> dict[str, Any]:
        """Return the distiller's state and the curve so far."""
        return {"distiller": self.distiller.state(), "curve": self.curve, "pictures": self.pictures.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.distiller.restore(state["distiller"])
        self.curve = [dict(point) for point in state["curve"]]
        self.pictures.restore(state.get("pictures", {}))

    def write(self, folder: Path) -> None:
        """Write the distilled set, a few of its images as they came about, and an imported set's own tensors."""
        made = synthetic_set(self.distiller, self.dataset, self.config.distill, self.config.seed)
        if not isinstance(self.distiller, ImportedImages):  # they say themselves what they are
            made.provenance["config"] = stage_config(self.config, "distill")  # what has no effect is not told either
        made.save(folder)
        self.pictures.write(folder)
        if isinstance(self.distiller, ImportedImages):
            self.distiller.save_source(folder)

    def meta(self) -> dict[str, Any]:
        """Return the lowest cosine that an approximate gradient (MTT, ``tesla``) was seen to have to the exact one."""
        if not isinstance(self.distiller, TrajectoryMatching) or not self.distiller.cosines:
            return {}
        return {"facts": {GRADIENT_COSINE: min(self.distiller.cosines.values())}}

    def close(self) -> None:
        """Do nothing."""

    def _gradient_cosine(self) -> dict[str, float]:
        if not isinstance(self.distiller, TrajectoryMatching) or not self.distiller.cosines:
            return {}
        return {GRADIENT_COSINE: list(self.distiller.cosines.values())[-1]}

    def _probe(self) -> dict[str, float]:
        probe, val = self.config.distill.probe, self.dataset.val
        if len(val) == 0:
            return {}
        training = probe_training(
            self.config,
            self.dataset,
            self.distiller.images.detach(),
            self.distiller.labels,
            self.device,
            self.distiller.learning_rate,
        )
        while training.epoch < training.epochs:
            training.step()
        images = val.images[: probe.images].to(self.device)
        return score(training.predict(0, images).cpu(), val.labels[: probe.images])


def probe_training(
    config: TrialConfig, dataset: Dataset, images: Tensor, labels: Tensor, device: str, rate: float | None = None
) -> DDNNTraining:
    """Return the training of the short network that scores a distilled set while it is made.

    Args:
        config: Resolved.
        dataset: The real data.
        images: The distilled images as they are now, float32 (M, C, S, S).
        labels: Their labels, int64 (M,).
        device: Where to train.
        rate: The learning rate that was learned with the images, if one was.
    """
    # Not config.train or the family, which are no part of the distill stage.
    distill = config.distill
    published = preset("published", distill.backbone, config.data.name, distill.ipc).values
    own = {"augment": distill.rtp.augment} if distill.backbone == "rtp" else {}
    recipe = TrainConfig.model_validate(
        TRAIN_DEFAULTS
        | {name.removeprefix("train."): value for name, value in published.items() if name.startswith("train.")}
        | own
        | {"epochs": config.distill.probe.epochs, "lr": rate or DEFAULT_RATE, "networks": 1}
        | {"network": config.distill.network}
    )
    return DDNNTraining(
        images,
        labels,
        recipe,
        num_classes=dataset.num_classes,
        flip=dataset.name not in DATASETS_WITHOUT_FLIP,
        seed=config.seed,
        device=device,
        stage="probe",
    )


class TrainWork:
    """The train stage: the networks, and their logits on everything that calibration and evaluation will ask for."""

    waited = 0.0

    def __init__(self, config: TrialConfig, dataset: Dataset, synthetic: SyntheticSet | None, device: str) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        images, labels, held_images, held_labels = training_images(config, dataset, synthetic)
        self.images, self.labels, self.held_images, self.held_labels = images, labels, held_images, held_labels
        rate = training_rate(config, synthetic)
        self.training = DDNNTraining(
            images,
            labels,
            config.train.model_copy(update={"lr": rate}),
            num_classes=dataset.num_classes,
            flip=dataset.name not in DATASETS_WITHOUT_FLIP,
            seed=config.seed,
            device=device,
        )
        self.curve: list[dict[str, float]] = []

    @property
    def fraction(self) -> float:
        """The share of the epochs that is done."""
        return self.training.epoch / self.training.epochs

    def step(self) -> None:
        """Train every network for one epoch, and score them on ``val`` if a fidelity point is reached."""
        loss = self.training.step()
        reached = int(TRAIN_POINTS * self.training.epoch / self.training.epochs + 1e-9)
        if reached > len(self.curve):
            metrics = self._score()
            while len(self.curve) < reached:
                self.curve.append({"fraction": (len(self.curve) + 1) / TRAIN_POINTS, "loss": loss, **metrics})

    def state(self) -> dict[str, Any]:
        """Return networks, momentum, epoch and the curve so far."""
        return {"training": self.training.state(), "curve": self.curve}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.training.restore(state["training"])
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
            logits = [self._logits(index, images) for index in range(len(networks))]
            tensors[f"{name}_logits"], tensors[f"{name}_labels"] = torch.stack(logits), labels.cpu().clone()
        save_file(tensors, folder / LOGITS)

    def meta(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""

    def _logits(self, index: int, images: Tensor) -> Tensor:
        if len(images) == 0:
            return torch.zeros(0, self.dataset.num_classes)
        return self.training.predict(index, images.to(self.device)).cpu().contiguous()

    def _score(self) -> dict[str, float]:
        val = self.dataset.val
        if len(val) == 0:
            return {}
        scores = [score(self._logits(i, val.images), val.labels) for i in range(len(self.training.networks))]
        return {name: math.fsum(s[name] for s in scores) / len(scores) for name in scores[0]}


def training_rate(config: TrialConfig, synthetic: SyntheticSet | None) -> float:
    """Return the learning rate of a resolved trial's networks: the config's, or that learned with the set."""
    return config.train.lr or (synthetic.learning_rate if synthetic is not None else None) or DEFAULT_RATE


def training_images(
    config: TrialConfig, dataset: Dataset, synthetic: SyntheticSet | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (images, labels, held-out images, held-out labels) of the train stage.

    Args:
        config: Resolved.
        dataset: The real data, which an FDNN (``synthetic`` None) trains on.
        synthetic: The distilled set of a DDNN.
    """
    if synthetic is None:
        split = dataset.train
        return split.images, split.labels, split.images[:0], split.labels[:0]
    held = held_out_per_class(synthetic.images_per_class, config.train.holdout)
    kept_index, held_index = split_holdout(synthetic.labels, held, config.seed)
    return (
        synthetic.images[kept_index],
        synthetic.labels[kept_index],
        synthetic.images[held_index],
        synthetic.labels[held_index],
    )
