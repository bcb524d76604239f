"""Bootstrap intervals over seeds and test images, of a metric or the difference of two methods (method.md, Variance).

Hierarchical: seeds are drawn with replacement, then the test images, once for all seeds and methods of a resample: all
networks are scored on the same images, so their errors go together, and a difference of two methods is paired in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ddcal.calibration.checks import ArrayLike, Floats, check_count
from ddcal.calibration.metrics.predictions import Predictions, predict, predict_from_probabilities
from ddcal.calibration.metrics.resampling import CLASS_BIN_METRICS, Statistic, statistic
from ddcal.config.metrics import METRICS

COUNTS = 1 << 21
"""Counts (images times resamples) that are held at once: 16 MB."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        mean: The metric of all images, mean over seeds (for a difference: that of the means).
        low: Lower end.
        high: Upper end.
        level: Share of the resamples between the ends.
        resampled: What was drawn anew. "images": there was a single seed, and the interval knows nothing of others.
    """

    mean: float
    low: float
    high: float
    level: float
    resampled: Literal["seeds and images", "images"]


def bootstrap_intervals(
    predictions: ArrayLike,
    labels: ArrayLike,
    metrics: Sequence[str] = ("ece", "nll", "accuracy"),
    *,
    generator: torch.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    bins: int = 15,
    probabilities: bool = False,
) -> dict[str, Interval]:
    """Return the percentile interval of each metric, a mean over seeds (Efron & Tibshirani 1993, chapter 13).

    Equal states of the generator draw equal seeds and images, whatever the metrics and predictions.

    What the intervals are not: with few seeds they are too narrow (the variance between S seeds comes out as its
    (S - 1) / S). And since an image that is drawn twice looks like two that agree, the ECE of a resample lies above
    that of the images themselves, by an amount of the size of its noise floor: an ECE near its floor may lie outside of
    its own interval. In the difference of two methods most of that cancels.

    Args:
        predictions: (S, N, K) logits of S seeds for the same N images, divided by their temperatures; (S, M, N, K) for
            M networks a seed, whose metrics are averaged and which are not drawn anew; (N, K) for a single seed.
        labels: (N,) integers in 0..K-1.
        metrics: Names of `ddcal.config.metrics.METRICS`.
        generator: Draws S numbers a resample, then N numbers a resample, on its own device.
        resamples: How many, at least 1.
        level: Between 0 and 1.
        bins: Number of bins of the metrics whose names have none.
        probabilities: Whether ``predictions`` are probabilities and not logits.

    Raises:
        ValueError: An unknown metric or none, ``resamples`` or ``bins`` below 1, a ``level`` that is not between 0 and
            1, a shape that is none of the above, and what `ddcal.calibration.score` refuses.
    """
    method = _seeds(predictions, "predictions")
    means, samples, resampled = _resample([method], labels, metrics, generator, resamples, level, bins, probabilities)
    return {name: _interval(means[0][name], samples[0][name], level, resampled) for name in metrics}


def bootstrap_difference(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    metrics: Sequence[str] = ("ece", "nll", "accuracy"),
    *,
    generator: torch.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    bins: int = 15,
    probabilities: bool = False,
) -> dict[str, Interval]:
    """Return the percentile interval of ``first`` less ``second``, paired: the same seeds and images for both.

    Args:
        first: As the predictions of `bootstrap_intervals`.
        second: As many seeds (and networks a seed) as ``first``, each with the same place as its counterpart.
        labels: As `bootstrap_intervals`, and so are the others.
        metrics: As there.
        generator: As there.
        resamples: As there.
        level: As there.
        bins: As there.
        probabilities: As there; for both.

    Raises:
        ValueError: As `bootstrap_intervals`; shapes that differ.
    """
    methods = [_seeds(first, "first"), _seeds(second, "second")]
    if methods[0].shape != methods[1].shape:
        raise ValueError(
            f"first has shape {tuple(first.shape)} and second {tuple(second.shape)}; they must be the same"
        )
    means, samples, resampled = _resample(methods, labels, metrics, generator, resamples, level, bins, probabilities)
    return {
        name: _interval(means[0][name] - means[1][name], samples[0][name] - samples[1][name], level, resampled)
        for name in metrics
    }


def _seeds(predictions: ArrayLike, name: str) -> torch.Tensor:
    """Return (S, M, N, K)."""
    values = torch.as_tensor(predictions).detach().cpu()
    if values.ndim not in (2, 3, 4) or 0 in values.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; it must be (N, K), (S, N, K) or (S, M, N, K), none of them 0"
        )
    if values.ndim == 2:
        return values[None, None]
    return values[:, None] if values.ndim == 3 else values


def _resample(
    methods: list[torch.Tensor],
    labels: ArrayLike,
    metrics: Sequence[str],
    generator: torch.Generator,
    resamples: int,
    level: float,
    bins: int,
    probabilities: bool,
) -> tuple[list[dict[str, float]], list[dict[str, Floats]], Literal["seeds and images", "images"]]:
    """Return each method's metrics, and those of each resample."""
    bins, resamples = check_count("bins", bins), check_count("resamples", resamples)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}; it must be between 0 and 1")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown or not metrics or isinstance(metrics, str):
        raise ValueError(f"metrics is {metrics!r}; it must hold names of {', '.join(METRICS)}")
    statistics = [_statistics(method, labels, metrics, bins, probabilities) for method in methods]
    seeds, images = methods[0].shape[0], methods[0].shape[2]
    device = generator.device
    # A single seed is drawn each time, and takes no numbers.
    drawn = torch.randint(seeds, (resamples, seeds), generator=generator, device=device).cpu() if seeds > 1 else None
    everything = np.ones((images, 1))
    means = [{name: float(_mean_over_networks(of[name], everything).mean()) for name in metrics} for of in statistics]
    samples = [{name: np.empty(resamples) for name in metrics} for _ in methods]
    step = max(1, COUNTS // images)
    for start in range(0, resamples, step):
        part = slice(start, min(start + step, resamples))
        counts = np.empty((images, part.stop - start))
        for column in range(counts.shape[1]):
            index = torch.randint(images, (images,), generator=generator, device=device)
            counts[:, column] = torch.bincount(index, minlength=images).cpu().numpy()
        for of, sampled in zip(statistics, samples, strict=True):
            for name in metrics:
                values = _mean_over_networks(of[name], counts)
                if drawn is not None:
                    values = np.take_along_axis(values, drawn[part].numpy().T, axis=0)
                sampled[name][part] = values.mean(axis=0)
    return means, samples, "images" if drawn is None else "seeds and images"


def _statistics(
    method: torch.Tensor, labels: ArrayLike, metrics: Sequence[str], bins: int, probabilities: bool
) -> dict[str, list[list[Statistic]]]:
    """Return metric → seed → network → its function of counts."""
    each = any(name in CLASS_BIN_METRICS for name in metrics)
    class_bins = bins if each or "brier" in metrics else None

    def reduced(values: torch.Tensor) -> Predictions:
        if probabilities:
            return predict_from_probabilities(values, labels, class_bins, each)
        return predict(values, labels, 1.0, class_bins, each)

    networks = [[reduced(values) for values in seed] for seed in method]
    return {name: [[statistic(name, network, bins) for network in seed] for seed in networks] for name in metrics}


def _mean_over_networks(statistics: list[list[Statistic]], counts: Floats) -> Floats:
    """Return (S, R)."""
    return np.stack([np.mean([network(counts) for network in seed], axis=0) for seed in statistics])


def _interval(mean: float, samples: Floats, level: float, resampled: Literal["seeds and images", "images"]) -> Interval:
    low, high = np.quantile(samples, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(mean, float(low), float(high), level, resampled)
