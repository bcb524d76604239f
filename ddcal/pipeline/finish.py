"""The two short stages: calibrate fits calibrators, evaluate scores them beside the reference calibrations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddcal.calibration import (
    Calibrator,
    EnsembleTemperatureScaling,
    HistogramBinning,
    IsotonicCalibration,
    TemperatureFit,
    TemperatureScaling,
    VectorScaling,
    accuracy,
    ece_noise_floor,
    fit_masked,
    fit_temperature,
    load_calibrator,
    ratio_for_accuracy,
    reliability_bins,
    score,
    score_probabilities,
)
from ddcal.calibration.checks import ArrayLike
from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.calibrations import CALIBRATIONS, default_bounds
from ddcal.data import Dataset
from ddcal.networks import build_network
from ddcal.pipeline.masked_stage import MaskedImages
from ddcal.seeding import generator

REFERENCES = ("ts_train", "ts_val")
"""Calibrations that every evaluation shows beside raw and the trial's own."""

CALIBRATORS = "calibrators"
"""Folder of a calibrate entry, with one folder a network, where one temperature is not all there is to a calibrator."""


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


def fit_on_logits(
    method: str, logits: dict[str, Tensor], network: int, bounds: tuple[float, float], solver: str
) -> TemperatureFit:
    """Fit a temperature on the logits that ``method`` is allowed to see (PAPER.md, names of the calibrations).

    Args:
        method: ``ts_train``, ``ts_holdout`` or ``ts_val``.
        logits: The train stage's tensors ``<split>_logits`` (n, N, K) and ``<split>_labels`` (N,).
        network: Which of the n networks.
        bounds: (t_min, t_max).
        solver: ``bounded`` or ``paper_lbfgs``.
    """
    split = {"ts_train": "train", "ts_holdout": "held", "ts_val": "val"}[method]
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
        masked: The masked training images (DDNN) or ``val`` (FDNN) of ``mts`` and ``mts_distilled``.
        folds: The folds stage's tensors, of ``ts_cv`` and ``mts_distilled``.
    """
    settings, count = config.calibrate, config.train.networks
    method, bounds, solver = settings.method, settings.bounds, settings.solver
    told: dict[str, Any] = {}
    if method not in CALIBRATIONS:
        raise ValueError(f"calibrate.method is {method!r}; it must be one of {', '.join(CALIBRATIONS)}")
    if not CALIBRATIONS[method].temperature_alone and method != "none":
        unfitted = _unfitted(config)
        fitted = [unfitted.fit(logits["val_logits"][index], logits["val_labels"]) for index in range(count)]
        return Calibrated({"fits": [{"calibrator": one.name, **one.facts()} for one in fitted]}, fitted)
    if method == "none":
        fits = [TemperatureFit(temperature=1.0, nll=math.nan, at_bound=False)] * count
    elif method in ("mts", "mts_distilled"):
        assert masked is not None, "masks need images"
        ratio = settings.mask.ratio
        if method == "mts_distilled":
            assert folds is not None, "the ratio comes from the folds"
            told = _chosen_ratio(masked, settings.draws, accuracy(folds["logits"], folds["labels"]))
            ratio = told["mask_ratio"]
        of_networks, labels = masked.logits(ratio, settings.draws)
        fits = [fit_masked(of_network, labels, bounds, solver) for of_network in of_networks]
    elif method == "ts_cv":
        assert folds is not None, "cross-validation needs folds"
        fits = [fit_temperature(folds["logits"], folds["labels"], bounds, solver)] * count
    else:
        fits = [fit_on_logits(method, logits, index, bounds, solver) for index in range(count)]
    records = [
        {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(fit).items()} for fit in fits
    ]
    calibrators: list[Calibrator] = [TemperatureScaling(bounds, solver, fit.temperature) for fit in fits]
    return Calibrated({"fits": records, **told}, calibrators)


def calibrators_of(values: dict[str, Any], folder: Path) -> list[Calibrator]:
    """Return the calibrators of a finished calibrate stage, or of an export's ``networks`` folder, one a network.

    Args:
        values: What `calibrate` recorded, also in ``calibration.json``.
        folder: Where the stage's files lie.

    Raises:
        ValueError: if a calibrator's files are not there.
    """
    return [
        TemperatureScaling(temperature=fit["temperature"])
        if "calibrator" not in fit
        else load_calibrator(folder / CALIBRATORS / str(index))
        for index, fit in enumerate(values["fits"])
    ]


def _unfitted(config: TrialConfig) -> Calibrator:
    """Return the calibrator of a method that has more than a temperature."""
    known: dict[str, Calibrator] = {
        "vs_val": VectorScaling(),
        "ets_val": EnsembleTemperatureScaling(config.calibrate.bounds),
        "isotonic_val": IsotonicCalibration(),
        "histogram_val": HistogramBinning(),
    }
    return known[config.calibrate.method]


def _chosen_ratio(masked: MaskedImages, draws: int, target: float) -> dict[str, Any]:
    """Return the ratio at which the masked accuracy, mean over the networks, meets the cross-validated one."""

    def accuracy_at(ratio: float) -> float:
        of_networks, labels = masked.logits(ratio, draws)
        repeated = labels.repeat(of_networks.shape[1])
        return math.fsum(accuracy(one.flatten(0, 1), repeated) for one in of_networks) / len(of_networks)

    choice = ratio_for_accuracy(accuracy_at, target)
    looked_at = [list(pair) for pair in choice.looked_at]
    return {
        "mask_ratio": choice.ratio,
        "mask_ratio_at_end": choice.at_end,
        "cross_validated_accuracy": target,
        "masked_accuracies": looked_at,
    }


def _score(calibrator: Calibrator, logits: ArrayLike, labels: ArrayLike, bins: int) -> dict[str, float]:
    if isinstance(calibrator, TemperatureScaling):
        assert calibrator.temperature is not None
        return score(logits, labels, calibrator.temperature, bins)
    return score_probabilities(calibrator.probabilities(logits), labels, bins)


def _calibrated_logits(calibrator: Calibrator, logits: Tensor) -> ArrayLike:
    """Return logits whose softmax are the calibrated probabilities."""
    if isinstance(calibrator, TemperatureScaling):
        assert calibrator.temperature is not None
        return logits / calibrator.temperature
    return np.log(np.maximum(calibrator.probabilities(logits), np.finfo(np.float64).tiny))


def evaluate(
    config: TrialConfig, logits: dict[str, Tensor], calibrators: Sequence[Calibrator], values: dict[str, Any]
) -> dict[str, Any]:
    """Score the calibrated networks on ``val`` and ``test``, beside raw, ts_train and ts_val.

    Metrics are means over the networks; ``…_std`` is their standard deviation (n − 1; absent for one network).
    ``val/ece`` and its like belong to the trial's own calibration, ``val/raw/ece`` to a reference. Calibrations that
    are one temperature have ``temperature`` and its like too.

    Args:
        config: Resolved.
        logits: The train stage's tensors.
        calibrators: The trial's own, one a network.
        values: What `calibrate` recorded of them.

    Returns:
        JSON values: ``metrics`` (name → float), ``temperatures`` (calibration → one per network) and ``reliability``
        (calibration → bins of the first network on ``test``).
    """
    count, own, fits = config.train.networks, config.calibrate.method, values["fits"]
    calibrations: dict[str, Sequence[Calibrator]] = {"": calibrators, "raw": _scaled([1.0] * count)}
    for method in REFERENCES:
        if method == own:
            calibrations[method] = calibrators
        elif len(logits["val_labels"]) or method != "ts_val":
            bounds = default_bounds(method)
            found = [fit_on_logits(method, logits, index, bounds, "bounded").temperature for index in range(count)]
            calibrations[method] = _scaled(found)

    metrics: dict[str, float] = {}
    bins = config.evaluate.bins
    for split in ("val", "test"):
        labels = logits[f"{split}_labels"]
        if len(labels) == 0:
            continue
        for calibration, each in calibrations.items():
            prefix = f"{split}/{calibration}/" if calibration else f"{split}/"
            scores = [_score(each[i], logits[f"{split}_logits"][i], labels, bins) for i in range(count)]
            for name in scores[0]:
                mean, std = _mean_and_std([s[name] for s in scores])
                metrics[prefix + name] = mean
                if std is not None and name in ("accuracy", "ece", "nll"):
                    metrics[f"{prefix}{name}_std"] = std
        floors = [
            ece_noise_floor(
                _calibrated_logits(calibrators[i], logits[f"{split}_logits"][i]),
                bins,
                generator(config.seed, "evaluate", f"noise-floor-{split}", i),
            )
            for i in range(count)
        ]
        metrics[f"{split}/ece_noise_floor"] = _mean_and_std(floors)[0]

    temperatures = _all_temperatures(calibrations)
    if "" in temperatures:
        mean, std = _mean_and_std(temperatures[""])
        metrics["temperature"] = mean
        if std is not None:
            metrics["temperature_std"] = std
        metrics["temperature_at_bound"] = sum(fit["at_bound"] for fit in fits) / count
    masked = [fit["masked_accuracy"] for fit in fits if fit.get("masked_accuracy") is not None]
    if masked:
        metrics["masked_accuracy"] = _mean_and_std(masked)[0]
    if "mask_ratio" in values:
        metrics["mask_ratio"] = values["mask_ratio"]
        metrics["mask_ratio_at_end"] = float(values["mask_ratio_at_end"])

    shown = {name: each for name, each in calibrations.items() if name}
    if own not in (*REFERENCES, "none"):
        shown[own] = calibrators
    reliability = {
        name: asdict(
            reliability_bins(_calibrated_logits(each[0], logits["test_logits"][0]), logits["test_labels"], bins)
        )
        for name, each in shown.items()
    }
    return {"metrics": metrics, "temperatures": _all_temperatures(shown), "reliability": _plain(reliability)}


def _scaled(temperatures: Sequence[float]) -> list[Calibrator]:
    return [TemperatureScaling(temperature=temperature) for temperature in temperatures]


def _all_temperatures(calibrations: Mapping[str, Sequence[Calibrator]]) -> dict[str, list[float]]:
    """Return calibration → one temperature a network, without calibrations that are more than a temperature."""
    found = {
        name: [one.temperature for one in each if isinstance(one, TemperatureScaling) and one.temperature is not None]
        for name, each in calibrations.items()
    }
    return {name: temperatures for name, temperatures in found.items() if len(temperatures) == len(calibrations[name])}


def _mean_and_std(values: list[float]) -> tuple[float, float | None]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _plain(value: Any) -> Any:
    """Return tensors and arrays as lists and NaN as None, for JSON."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value
