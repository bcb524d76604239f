"""Computing the calibrate stage: one calibrator a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddcal.calibration import (
    Calibrator,
    TemperatureFit,
    TemperatureScaling,
    accuracy,
    fit_masked,
    fit_temperature,
    load_calibrator,
    masked_logits,
    ratio_for_accuracy,
)
from ddcal.config import TrialConfig
from ddcal.config.calibrations import CALIBRATIONS, Calibration, calibration
from ddcal.config.components import ComponentError, imported_object
from ddcal.data import Dataset
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.base import Found
from ddcal.pipeline.compute.folds import fold_logits_of
from ddcal.pipeline.compute.masked import MaskedImages, masked_images
from ddcal.pipeline.compute.train import logits_of
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import images_like_train, random_logits
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.calibrate import CALIBRATE, CALIBRATORS
from ddcal.pipeline.stages.masked import MASKED_RATIOS
from ddcal.soft_labels import repeated


def compute(place: TrialPlace) -> Found:
    """Return the calibrators of a trial whose networks are trained."""
    masked = masked_images(place) if place.config.calibrate.spec.masks else None
    found = calibrate(place.config, logits_of(place), masked, fold_logits_of(place))
    members = {"members": sorted(set(masked.used))} if masked is not None and masked.used else {}
    return Found(found.values, found.write, members)


def found_calibrators(place: TrialPlace) -> tuple[dict[str, Any], list[Calibrator]]:
    """Return the values and the calibrators of the finished stage."""
    entry = place.entries[CALIBRATE.name]
    return entry.meta["values"], calibrators_of(entry.meta["values"], entry.folder, place.config.calibrate.method)


@dataclass(frozen=True)
class Calibrated:
    """What the calibrate stage found.

    Attributes:
        values: JSON values: ``fits``, one record a network, and for ``mts_distilled`` how its ratio was chosen.
        calibrators: One a network.
    """

    values: dict[str, Any]
    calibrators: list[Calibrator]

    def write(self, folder: Path) -> None:
        """Write the calibrators that `calibrators_of` does not have from the values alone."""
        for index, calibrator in enumerate(self.calibrators):
            if not isinstance(calibrator, TemperatureScaling):
                calibrator.save(folder / CALIBRATORS / str(index))


def fit_on_logits(
    method: str, logits: dict[str, Tensor], network: int, bounds: tuple[float, float], solver: str
) -> TemperatureFit:
    """Fit a temperature on the logits that ``method`` is allowed to see (method.md, Names of the calibrations).

    Args:
        method: One that sees the train stage's logits alone: ``ts_train``, ``ts_holdout``, ``ts_val``.
        logits: The train stage's tensors ``<split>_logits`` (n, N, K) and ``<split>_labels``, (N,) or (N, K).
        network: Which of the n networks.
        bounds: (t_min, t_max).
        solver: ``bounded`` or ``paper_lbfgs``.
    """
    split = calibration(method).sees
    return fit_temperature(logits[f"{split}_logits"][network], logits[f"{split}_labels"], bounds, solver)


def calibrate(
    config: TrialConfig,
    logits: dict[str, Tensor],
    masked: MaskedImages | None = None,
    folds: dict[str, Tensor] | None = None,
) -> Calibrated:
    """Fit one calibrator a network.

    Args:
        config: Resolved.
        logits: The train stage's tensors.
        masked: The masked training images (DDNN) or ``val`` (FDNN) of methods that mask.
        folds: The folds stage's tensors, of ``ts_cv`` and ``mts_distilled``.
    """
    settings, count = config.calibrate, config.train.networks
    method, spec, bounds, solver = settings.method, settings.spec, settings.bounds, settings.solver
    unfitted = _unfitted(config) if spec.calibrator else None
    told: dict[str, Any] = {}
    of_masks: tuple[Tensor, Tensor] | None = None
    if spec.masks:
        assert masked is not None, "masks need images"
        ratio = settings.mask.ratio
        if spec.finds_ratio:
            assert folds is not None, "the ratio comes from the folds"
            told = _chosen_ratio(masked, settings.draws, accuracy(folds["logits"], folds["labels"]))
            ratio = told["mask_ratio"]
        of_masks = masked.logits(ratio, settings.draws)
    if unfitted is not None:
        seen = [_seen(spec, index, logits, folds, of_masks) for index in range(count)]
        fitted = [unfitted.fit(*logits_labels) for logits_labels in seen]
        return Calibrated({"fits": [{"calibrator": one.name, **one.facts()} for one in fitted], **told}, fitted)
    if spec.sees == "nothing":
        fits = [TemperatureFit(temperature=1.0, nll=math.nan, at_bound=False)] * count
    elif of_masks is not None:
        of_networks, labels = of_masks
        fits = [fit_masked(of_network, labels, bounds, solver) for of_network in of_networks]
    elif spec.sees == "folds":
        assert folds is not None, "cross-validation needs folds"
        fits = [fit_temperature(folds["logits"], folds["labels"], bounds, solver)] * count
    else:
        fits = [fit_on_logits(method, logits, index, bounds, solver) for index in range(count)]
    records = [
        {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(fit).items()} for fit in fits
    ]
    calibrators: list[Calibrator] = [TemperatureScaling(bounds, solver, fit.temperature) for fit in fits]
    return Calibrated({"fits": records, **told}, calibrators)


def calibrators_of(values: dict[str, Any], folder: Path, method: str) -> list[Calibrator]:
    """Return the calibrators of a finished calibrate stage, or of an export's ``networks`` folder, one a network.

    Args:
        values: What `calibrate` recorded, also in ``calibration.json``.
        folder: Where the stage's files lie.
        method: As ``calibrate.method``: of a user's own it says which class reads them; files never do.

    Raises:
        ValueError: if a calibrator's files are not there.
    """
    own = _calibrator_class(method) if method not in CALIBRATIONS and calibration(method).calibrator else None
    return [
        TemperatureScaling(temperature=fit["temperature"])
        if "calibrator" not in fit
        else load_calibrator(folder / CALIBRATORS / str(index), own)
        for index, fit in enumerate(values["fits"])
    ]


def _unfitted(config: TrialConfig) -> Calibrator:
    """Return the calibrator of a method that has more than a temperature."""
    made = _calibrator_class(config.calibrate.method)
    unfitted = made(config.calibrate.bounds) if config.calibrate.spec.takes_bounds else made()
    lacking = [name for name in ("name", "fit", "probabilities", "facts", "save") if not hasattr(unfitted, name)]
    if lacking:
        raise ComponentError(
            f"calibrate.method {config.calibrate.method!r}: {config.calibrate.spec.calibrator} has no "
            f"{', '.join(lacking)}: it must be a ddcal.calibration.Calibrator"
        )
    return unfitted


def _calibrator_class(method: str) -> Callable[..., Calibrator]:
    found: Callable[..., Calibrator] = imported_object("calibrator", method, calibration(method).calibrator)
    return found


def _seen(
    spec: Calibration,
    network: int,
    logits: dict[str, Tensor],
    folds: dict[str, Tensor] | None,
    of_masks: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K) and labels (N,) that a calibrator of a network is fitted on, of all mask draws."""
    if of_masks is not None:
        of_networks, labels = of_masks
        return of_networks[network].flatten(0, 1), repeated(labels, of_networks.shape[1])
    if spec.sees == "folds":
        assert folds is not None, "cross-validation needs folds"
        return folds["logits"], folds["labels"]
    return logits[f"{spec.sees}_logits"][network], logits[f"{spec.sees}_labels"]


def _chosen_ratio(masked: MaskedImages, draws: int, target: float) -> dict[str, Any]:
    """Return the ratio at which the masked accuracy, mean over the networks, meets the cross-validated one."""

    def accuracy_at(ratio: float) -> float:
        of_networks, labels = masked.logits(ratio, draws)
        all_labels = repeated(labels, of_networks.shape[1])
        return math.fsum(accuracy(one.flatten(0, 1), all_labels) for one in of_networks) / len(of_networks)

    choice = ratio_for_accuracy(accuracy_at, target)
    looked_at = [list(pair) for pair in choice.looked_at]
    return {
        "mask_ratio": choice.ratio,
        "mask_ratio_at_end": choice.at_end,
        "cross_validated_accuracy": target,
        "masked_accuracies": looked_at,
    }


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of calibrating one network."""
    settings = config.calibrate
    if settings.spec.sees == "nothing":
        return Cost(0.0)
    if not settings.spec.masks:
        logits = random_logits(config, dataset)
        one = config.model_copy(update={"train": config.train.model_copy(update={"networks": 1})})
        folds = {"logits": logits["train_logits"][0], "labels": logits["train_labels"]}
        return Cost(measuring.seconds_of(lambda: calibrate(one, logits, None, folds), device, math.inf))
    if not config.distill.spec.distills:
        images, labels = dataset.val.images, dataset.val.labels
    else:
        images, labels, _ = images_like_train(config, dataset)
    network = measuring.untrained_network(config, dataset, device)
    images, labels = images.to(device), labels.to(device)
    draws = min(settings.draws, 2)
    chosen = settings.spec.finds_ratio
    ratio = 0.5 if chosen else settings.mask.ratio

    def fit() -> object:
        logits, used = masked_logits(network, images, labels, ratio, draws, config.seed, settings.mask.unit)
        if settings.spec.calibrator:
            return _unfitted(config).fit(logits.flatten(0, 1).cpu(), repeated(used, len(logits)).cpu())
        return fit_masked(logits, used, settings.bounds, settings.solver)

    looks = MASKED_RATIOS if chosen else 1
    return Cost(
        looks * measuring.seconds_of(fit, device, math.inf) * settings.draws / draws
    )  # the first call imports scipy
