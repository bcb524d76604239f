"""Computing the distill stage: a distiller, and a short probe network's ``val`` score at fixed fractions of it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from ddcal.calibration import score
from ddcal.config import TrainConfig, TrialConfig
from ddcal.config.datasets import dataset_spec
from ddcal.config.presets import DEFAULT_RATE, TRAIN_DEFAULTS, preset
from ddcal.data import Dataset
from ddcal.distill import SyntheticSet, make_distiller, synthetic_set
from ddcal.distill.experts import Experts, skeleton
from ddcal.errors import BadInput
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.experts import experts_of
from ddcal.pipeline.compute.pictures import StagePictures
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import LONG_SECONDS, QUIET, score_seconds
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.distill import DISTILL
from ddcal.seeding import generator
from ddcal.training import DDNNTraining


def begin(place: TrialPlace) -> DistillWork:
    """Return the stage at its first iteration, with experts where the backbone takes them.

    Raises:
        BadInput: if a file of images that is to be imported has changed.
    """
    spec = place.config.distill.spec
    experts = experts_of(place) if spec.takes_experts else None
    if experts is not None:  # those that only label are no part of the stage's key
        experts = experts.first(spec.experts(place.config.distill))
    work = DistillWork(place.config, place.dataset, place.environment.device, experts, place.environment.compile)
    if DISTILL.key(place.config, place.fingerprint, place.environment, place.keys) != place.keys[DISTILL.name]:
        raise BadInput(f"distill.file.images: {place.config.distill.file.images} changed meanwhile")
    return work


def synthetic_of(place: TrialPlace) -> SyntheticSet | None:
    """Return the set of the finished stage; None for a trial that trains on all images."""
    entry = place.entries.get(DISTILL.name)
    return None if entry is None else SyntheticSet.load(entry.folder)


def probed_on(place: TrialPlace) -> dict[str, int] | None:
    """Return of the images of ``val`` that probes are scored on: ``images``, ``classes`` and ``largest``.

    None before the stage is finished, of a trial without probes, and of a stage of an earlier version.
    """
    entry = place.entries.get(DISTILL.name)
    found = None if entry is None else entry.meta.get("probed_on")
    names = ("images", "classes", "largest")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), int) and found[name] > 0 for name in names):
        return None
    return {name: found[name] for name in names}


class DistillWork:
    """The distill stage: a distiller, and a short probe network's ``val`` score at fixed fractions of them."""

    waited = 0.0

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        device: str,
        experts: Experts | None = None,
        compiled: bool = False,
    ) -> None:
        self.config, self.dataset, self.device, self.compiled = config, dataset, device, compiled
        self.distiller = make_distiller(
            dataset, config.distill, config.seed, device, experts, precision=None, compiled=compiled
        )
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
            metrics = self._probe() | dict(self.distiller.facts())
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
        if not self.config.distill.spec.imports:  # they say themselves what they are
            made.provenance["config"] = DISTILL.settings(self.config)  # what has no effect is not told either
        made.save(folder)
        self.pictures.write(folder)
        self.distiller.save_more(folder)

    def meta(self) -> dict[str, Any]:
        """Return what the backbone has to say of the whole loop, and what the probes were scored on."""
        facts, labels = dict(self.distiller.final_facts()), self.dataset.val.labels[: self.config.distill.probe.images]
        meta: dict[str, Any] = {"facts": facts} if facts else {}
        if self.curve and len(labels):
            largest = int(torch.bincount(labels).max())
            meta["probed_on"] = {"images": len(labels), "classes": self.dataset.num_classes, "largest": largest}
        return meta

    def close(self) -> None:
        """Do nothing."""

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
            self.compiled,
        )
        while training.epoch < training.epochs:
            training.step()
        images = val.images[: probe.images].to(self.device)
        return score(training.predict(0, images).cpu(), val.labels[: probe.images])


def probe_training(
    config: TrialConfig,
    dataset: Dataset,
    images: Tensor,
    labels: Tensor,
    device: str,
    rate: float | None = None,
    compiled: bool = False,
) -> DDNNTraining:
    """Return the training of the short network that scores a distilled set while it is made.

    Args:
        config: Resolved.
        dataset: The real data.
        images: The distilled images as they are now, float32 (M, C, S, S).
        labels: Their labels, int64 (M,).
        device: Where to train.
        rate: The learning rate that was learned with the images, if one was.
        compiled: Whether the network is compiled.
    """
    # Not config.train or the family, which are no part of the distill stage.
    distill = config.distill
    published = preset("published", distill.backbone, config.data.name, distill.ipc).values
    augment = distill.spec.augment(distill)
    own = {} if augment is None else {"augment": augment}
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
        flip=dataset_spec(dataset.name).flips,
        seed=config.seed,
        device=device,
        stream="probe",
        precision=None,
        compiled=compiled,
    )


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of an iteration, of a probe and of the start."""
    distill = config.distill.spec.quiet(config.distill, QUIET)
    experts = made_up_experts(config, dataset) if distill.spec.takes_experts else None
    began = time.perf_counter()
    distiller = make_distiller(
        dataset, distill, config.seed, torch.device(device), experts, precision=None, compiled=compiled
    )
    once = time.perf_counter() - began
    step = distiller.iteration_seconds(lambda call: measuring.seconds_of(call, device), LONG_SECONDS)
    point = 0.0
    if config.distill.probe.points and len(dataset.val):
        images = distiller.images.detach()
        training = probe_training(config, dataset, images, distiller.labels, device, compiled=compiled)
        epochs, val = config.distill.probe.epochs, dataset.val.images[: config.distill.probe.images]
        point = epochs * measuring.seconds_of(training.step, device) + score_seconds(
            training, dataset, len(val), device
        )
    return Cost(step, point, once)


def made_up_experts(config: TrialConfig, dataset: Dataset) -> Experts:
    """Return experts that never trained, all of the same weights: an iteration costs the same with any."""
    network = skeleton(dataset, config.distill, generator(config.seed, "plan", "expert"))
    start = parameters_to_vector(network.parameters()).detach()
    epochs = torch.arange(config.distill.mtt.kept_epochs + 1)
    trajectory = start * (1.0 + 0.01 * epochs[:, None])
    return Experts([trajectory] * config.distill.spec.experts(config.distill))
