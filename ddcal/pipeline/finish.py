"""The two short stages: calibrate fits temperatures, evaluate scores them beside the reference calibrations."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ddcal.calibration import (
    TemperatureFit,
    ece_noise_floor,
    fit_temperature,
    masked_temperature_scaling,
    reliability_bins,
    score,
)
from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.trial import default_bounds
from ddcal.data import Dataset
from ddcal.networks import build_network
from ddcal.seeding import generator

REFERENCES = ("ts_train", "ts_val")
"""Calibrations that every evaluation shows beside raw and the trial's own."""


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
    config: TrialConfig, logits: dict[str, Tensor], networks: list[torch.nn.Module], images: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Fit one temperature a network.

    Args:
        config: Resolved.
        logits: The train stage's tensors.
        networks: The trained networks; only ``mts`` reads them.
        images: What ``mts`` masks: the training images (DDNN) or ``val`` (FDNN), float32 (N, C, H, W).
        labels: Their labels, int64 (N,).

    Returns:
        JSON values: ``fits``, one record a network.
    """
    settings = config.calibrate
    fits = []
    for index in range(config.train.networks):
        if settings.method == "none":
            fit = TemperatureFit(temperature=1.0, nll=math.nan, at_bound=False)
        elif settings.method == "mts":
            fit = masked_temperature_scaling(
                networks[index],
                images,
                labels,
                settings.mask.ratio,
                bounds=settings.bounds,
                draws=settings.draws,
                seed=config.seed,
                solver=settings.solver,
                unit=settings.mask.unit,
            )
        else:
            fit = fit_on_logits(settings.method, logits, index, settings.bounds, settings.solver)
        record = asdict(fit)
        fits.append({name: None if isinstance(v, float) and math.isnan(v) else v for name, v in record.items()})
    return {"fits": fits}


def evaluate(config: TrialConfig, logits: dict[str, Tensor], fits: list[dict[str, Any]]) -> dict[str, Any]:
    """Score the calibrated networks on ``val`` and ``test``, beside raw, ts_train and ts_val.

    Metrics are means over the networks; ``…_std`` is their standard deviation (n − 1; absent for one network).
    ``val/ece`` and its like belong to the trial's own calibration, ``val/raw/ece`` to a reference.

    Returns:
        JSON values: ``metrics`` (name → float), ``temperatures`` (calibration → one per network) and ``reliability``
        (calibration → bins of the first network on ``test``).
    """
    count = config.train.networks
    temperatures: dict[str, list[float]] = {"": [fit["temperature"] for fit in fits], "raw": [1.0] * count}
    for method in REFERENCES:
        if method == config.calibrate.method:
            temperatures[method] = temperatures[""]
        elif len(logits["val_labels"]) or method != "ts_val":
            bounds = default_bounds(method)
            temperatures[method] = [
                fit_on_logits(method, logits, index, bounds, "bounded").temperature for index in range(count)
            ]

    metrics: dict[str, float] = {}
    bins = config.evaluate.bins
    for split in ("val", "test"):
        labels = logits[f"{split}_labels"]
        if len(labels) == 0:
            continue
        for calibration, values in temperatures.items():
            prefix = f"{split}/{calibration}/" if calibration else f"{split}/"
            scores = [score(logits[f"{split}_logits"][i], labels, values[i], bins) for i in range(count)]
            for name in scores[0]:
                mean, std = _mean_and_std([s[name] for s in scores])
                metrics[prefix + name] = mean
                if std is not None and name in ("accuracy", "ece", "nll"):
                    metrics[f"{prefix}{name}_std"] = std
        floors = [
            ece_noise_floor(
                logits[f"{split}_logits"][i] / temperatures[""][i],
                bins,
                generator(config.seed, "evaluate", f"noise-floor-{split}", i),
            )
            for i in range(count)
        ]
        metrics[f"{split}/ece_noise_floor"] = _mean_and_std(floors)[0]

    mean, std = _mean_and_std(temperatures[""])
    metrics["temperature"] = mean
    if std is not None:
        metrics["temperature_std"] = std
    metrics["temperature_at_bound"] = sum(fit["at_bound"] for fit in fits) / count
    masked = [fit["masked_accuracy"] for fit in fits if fit.get("masked_accuracy") is not None]
    if masked:
        metrics["masked_accuracy"] = _mean_and_std(masked)[0]

    shown = {name: values for name, values in temperatures.items() if name}
    if config.calibrate.method not in (*REFERENCES, "none"):
        shown[config.calibrate.method] = temperatures[""]
    reliability = {
        name: asdict(reliability_bins(logits["test_logits"][0] / values[0], logits["test_labels"], bins))
        for name, values in shown.items()
    }
    return {"metrics": metrics, "temperatures": shown, "reliability": _plain(reliability)}


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
