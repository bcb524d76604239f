"""What makes two stages cost the same: their kind, and how much of it each of them computes.

A stage's seconds are its units times (steps times a step, points times a fidelity point, and what is done once). A
kind holds everything that changes one of those: two stages of one kind differ in seeds, rates and counts alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ddcal.config import TrialConfig
from ddcal.config.backbones import OWN_SECTION
from ddcal.config.calibrations import MASK_METHODS
from ddcal.config.networks import NetworkOverride
from ddcal.config.trial import folds_of, held_out_per_class
from ddcal.distill.experts import kept_epochs
from ddcal.pipeline.work import TRAIN_POINTS

PUBLISH_SECONDS = 0.02
"""Writing a stage's files with their sums: an estimate."""


@dataclass(frozen=True)
class Kind:
    """A kind of stage.

    Attributes:
        stage: Its stage.
        what: A few words on it.
        step: What one step is.
        identity: Everything that changes its cost, as JSON.
    """

    stage: str
    what: str
    step: str
    identity: str


@dataclass(frozen=True)
class Amount:
    """How much a stage computes: ``units`` (networks, experts, folds, or 1) times ``steps`` and fidelity ``points``."""

    units: int
    steps: int
    points: int


@dataclass(frozen=True)
class Cost:
    """What a kind costs, for one unit.

    Attributes:
        step: Seconds a step.
        point: Seconds a fidelity point.
        once: Seconds before and after all steps.
        gpu_bytes: Peak of the GPU memory that torch allocated, in bytes; None on the CPU.
    """

    step: float
    point: float = 0.0
    once: float = 0.0
    gpu_bytes: int | None = None

    def seconds(self, amount: Amount) -> float:
        """Return the seconds of a whole stage."""
        unit = amount.steps * self.step + amount.points * self.point + self.once
        return PUBLISH_SECONDS + amount.units * unit


def stage_kind(config: TrialConfig, stage: str) -> Kind:
    """Return the kind of a stage of a *resolved* trial."""
    data, distill, train, calibrate = config.data, config.distill, config.train, config.calibrate
    values: dict[str, Any] = {"data": data.model_dump(mode="json")}
    if stage == "experts":
        values |= {"network": distill.network.model_dump()}
        values |= distill.mtt.experts.model_dump(include={"batch_size", "augment", "precision"})
        what = f"{data.name} experts, width {distill.network.width}, augment {distill.mtt.experts.augment}"
        return _kind(stage, what, "epoch of an expert", values)
    if stage == "distill":
        values |= {name: getattr(distill, name) for name in ("backbone", "ipc")}
        values |= {"network": distill.network.model_dump(), "probe": distill.probe.model_dump(exclude={"points"})}
        masked = ""
        if distill.backbone != "real":
            section = OWN_SECTION[distill.backbone]
            own = getattr(distill, section).model_dump()
            values[section] = {name: value for name, value in own.items() if isinstance(value, int)}  # not the rates
            if distill.backbone == "mtt":
                values["gradient"] = distill.mtt.gradient
            if distill.backbone == "rtp" and distill.rtp.augment != "dsa":
                values["augment"] = distill.rtp.augment
            if distill.mask.ratio > 0.0:
                values["mask"] = distill.mask.model_dump(exclude={"ratio"})
                masked = " masked"
        what = f"{data.name} {distill.backbone} ipc {distill.ipc}{masked}, {_network(distill.network)}"
        return _kind(stage, what, "iteration", values)
    images = "all images" if distill.backbone == "full" else f"{_trained_on(config)} images a class"
    values["images"] = images
    if distill.backbone == "rtp":  # whose budget is more images than that
        values["rtp"] = {"bases": distill.rtp.bases, "downsample": distill.rtp.downsample}
    if stage == "train":
        values |= {"network": train.network.model_dump()}
        values |= train.model_dump(include={"batch_size", "augment", "loss", "holdout"})
        what = f"{data.name} {images}, {_network(train.network)}, augment {train.augment}"
        if train.loss != "cross_entropy":
            what += f", {train.loss}"
        return _kind(stage, what, "epoch of a network", values)
    if stage == "folds":
        values |= {"network": train.network.model_dump(), "folds": folds_of(config)}
        values |= train.model_dump(include={"batch_size", "augment", "loss", "holdout"})
        what = f"{data.name} {images} in {folds_of(config)} folds, {_network(train.network)}, augment {train.augment}"
        return _kind(stage, what, "epoch of a network", values)
    if stage == "calibrate":
        values |= {"method": calibrate.method, "solver": calibrate.solver}
        what = f"{data.name} {calibrate.method}, {images}"
        if calibrate.method in MASK_METHODS:
            draws = calibrate.draws if calibrate.mask.ratio > 0.0 or calibrate.method != "mts" else 1
            values |= {"network": train.network.model_dump(), "draws": draws}
            what += f", {draws} mask{'s' * (draws != 1)}"
        return _kind(stage, what, "network", values)
    values |= {"bins": config.evaluate.bins, "networks": train.networks}
    return _kind(stage, f"{data.name} {images}, {train.networks} networks", "evaluation", values)


def stage_amount(config: TrialConfig, stage: str) -> Amount:
    """Return how much a stage of a *resolved* trial computes."""
    networks = config.train.networks
    if stage == "experts":
        return Amount(config.distill.mtt.experts.count, kept_epochs(config.distill), 0)
    if stage == "distill":
        iterations = 1 if config.distill.backbone in ("real", "file") else config.distill.iterations or 1
        points = config.distill.probe.points
        scored = {math.ceil(k * iterations / points) for k in range(1, points + 1)}
        return Amount(1, iterations, len(scored))
    if stage == "folds":
        return Amount(folds_of(config), config.train.epochs or 1, 0)
    if stage == "train":
        epochs = config.train.epochs or 1
        return Amount(networks, epochs, min(TRAIN_POINTS, epochs))
    return Amount(networks if stage == "calibrate" else 1, 1, 0)


def _network(network: NetworkOverride) -> str:
    """Return a resolved network in words; the ConvNet, which is the usual one, by its width alone."""
    name = "" if network.name == "convnet" else f"{network.name} "
    return f"{name}width {network.width}" if network.width is not None else name.rstrip()


def _trained_on(config: TrialConfig) -> int:
    return config.distill.ipc - held_out_per_class(config.distill.ipc, config.train.holdout)


def _kind(stage: str, what: str, step: str, values: dict[str, Any]) -> Kind:
    return Kind(stage, what, step, json.dumps({"stage": stage, **values}, sort_keys=True))
