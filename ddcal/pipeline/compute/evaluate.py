"""Computing the evaluate stage: the calibrated networks are scored beside the reference calibrations."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ddcal.calibration import (
    Calibrator,
    TemperatureScaling,
    ece_noise_floor,
    reliability_bins,
    score,
    score_probabilities,
)
from ddcal.calibration.checks import ArrayLike
from ddcal.config import TrialConfig
from ddcal.config.calibrations import CALIBRATIONS, REFERENCES, default_bounds
from ddcal.data import Dataset
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.base import Found
from ddcal.pipeline.compute.calibrate import fit_on_logits, found_calibrators
from ddcal.pipeline.compute.diagram import DIAGRAM, SHIFT_PICTURE, draw_diagram, draw_shift
from ddcal.pipeline.compute.further import further_metrics
from ddcal.pipeline.compute.labels import teacher_of
from ddcal.pipeline.compute.shift import Shifted, shift_metrics, shift_seconds, shifted_logits
from ddcal.pipeline.compute.train import logits_of
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import random_logits
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.evaluate import other_fingerprints
from ddcal.seeding import generator


def compute(place: TrialPlace) -> Found:
    """Return the metrics of a trial whose networks are calibrated."""
    told, calibrators = found_calibrators(place)
    config = place.config
    values = evaluate(config, logits_of(place), calibrators, told, teacher_of(place), shifted_logits(place))
    if config.evaluate.shift.datasets:
        values["other_data"] = other_fingerprints(config)

    def write(folder: Path) -> None:
        draw_diagram(values, config, folder / DIAGRAM)
        if config.evaluate.shift.corruptions:
            draw_shift(values["metrics"], config, folder / SHIFT_PICTURE)

    return Found(values, write)


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
    config: TrialConfig,
    logits: dict[str, Tensor],
    calibrators: Sequence[Calibrator],
    values: dict[str, Any],
    teacher: dict[str, Tensor] | None = None,
    shifted: Shifted | None = None,
) -> dict[str, Any]:
    """Score the calibrated networks on ``val`` and ``test``, beside raw, ts_train and ts_val.

    Metrics are means over the networks; ``…_std`` is their standard deviation (n − 1; absent for one network).
    ``val/ece`` and its like belong to the trial's own calibration, ``val/raw/ece`` to a reference. Calibrations that
    are one temperature have ``temperature`` and its like too. ``val/teacher/ece`` and its like are of the experts that
    gave the labels: of the mean of their probabilities, at the temperature of the labels. ``evaluate.also`` and
    ``evaluate.shift`` add more (`further_metrics`, `shift_metrics`).

    Args:
        config: Resolved.
        logits: The train stage's tensors.
        calibrators: The trial's own, one a network.
        values: What `calibrate` recorded of them.
        teacher: Their probabilities (N, K) on ``val`` and ``test``, of a trial that has such labels.
        shifted: What the networks answer to other images, where ``evaluate.shift`` asks.

    Returns:
        JSON values: ``metrics`` (name → float), ``temperatures`` (calibration → one per network) and ``reliability``
        (calibration → bins of the first network on ``test``).
    """
    count, own, fits = config.train.networks, config.calibrate.method, values["fits"]
    calibrations: dict[str, Sequence[Calibrator]] = {"": calibrators, "raw": _scaled([1.0] * count)}
    for method in REFERENCES:
        if method == own:
            calibrations[method] = calibrators
        elif len(logits["val_labels"]) or not CALIBRATIONS[method].real_labels:
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
        if teacher is not None:
            scores_of_teacher = score_probabilities(teacher[split], labels, bins)
            metrics |= {f"{split}/teacher/{name}": value for name, value in scores_of_teacher.items()}
        floors = [
            ece_noise_floor(
                _calibrated_logits(calibrators[i], logits[f"{split}_logits"][i]),
                bins,
                generator(config.seed, "evaluate", f"noise-floor-{split}", i),
            )
            for i in range(count)
        ]
        metrics[f"{split}/ece_noise_floor"] = _mean_and_std(floors)[0]

    metrics |= further_metrics(config, logits, calibrations)
    if shifted is not None:
        metrics |= shift_metrics(config, shifted, calibrations)
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
    if own not in REFERENCES and config.calibrate.spec.sees != "nothing":
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


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of an evaluation."""
    logits = random_logits(config, dataset)
    values = {"fits": [{"temperature": 1.0, "at_bound": False}] * config.train.networks}
    calibrators = [TemperatureScaling(temperature=1.0)] * config.train.networks
    with tempfile.TemporaryDirectory(prefix="ddcal-") as folder:
        seconds = measuring.seconds_of(
            lambda: draw_diagram(evaluate(config, logits, calibrators, values), config, Path(folder) / DIAGRAM),
            device,
            math.inf,  # the first call imports matplotlib
        )
    return Cost(seconds + shift_seconds(config, dataset, device))
