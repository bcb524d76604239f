"""Masked temperature scaling over many ratios, draws and bounds: every masked image is predicted once.

The negative log-likelihood is convex in 1/T, so the optimum within bounds is the optimum of any wider interval, moved
into them: fits that differ in bounds alone are one fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from ddcal.calibration.checks import ArrayLike, Floats, Targets, check_matrix, check_targets, classes_of
from ddcal.calibration.metrics.scores import score
from ddcal.calibration.optimum import optimal_temperature
from ddcal.calibration.temperature import check_bounds


@dataclass(frozen=True)
class SweepFit:
    """Masked temperature scaling at one ratio within one pair of bounds.

    Attributes:
        ratio: The mask's.
        bounds: Lowest and highest temperature.
        temperature: T of all draws pooled.
        draws: T of every draw on its own.
        at_bound: Whether T equals one of the bounds.
        masked_accuracy: Accuracy on the masked images, pooled over draws.
        metrics: ``<name>/<metric>`` of the logits that were given to be scored at T; empty if none were.
    """

    ratio: float
    bounds: tuple[float, float]
    temperature: float
    draws: tuple[float, ...]
    at_bound: bool
    masked_accuracy: float
    metrics: dict[str, float] = field(default_factory=dict)


def fit_temperatures(logits: ArrayLike, labels: ArrayLike, bounds: tuple[float, float] = (0.05, 20.0)) -> Floats:
    """Return the temperatures of many sets of logits, which `fit_temperature` with solver "bounded" finds too.

    Args:
        logits: (F, M, K) floats, a set after the other.
        labels: (M,) integers, or probabilities (M, K), the same for every set.
        bounds: Lowest and highest temperature, 0 < low < high.

    Returns:
        float64 (F,).

    Raises:
        ValueError: Invalid logits, labels or bounds.
    """
    low, high = check_bounds(bounds)
    return _temperatures(*_stack(logits, labels), low, high)


def sweep_logits(
    logits: ArrayLike, labels: ArrayLike, ratio: float, bounds: Sequence[tuple[float, float]] = ((1.0, 20.0),)
) -> list[SweepFit]:
    """Return the fits of one ratio's masked logits (draws, M, K) within every pair of bounds, without metrics.

    Args:
        logits: (draws, M, K) floats, from `masked_logits`.
        labels: (M,) integers, or probabilities (M, K).
        ratio: What they were masked with; it is told and not used.
        bounds: Pairs (low, high).

    Raises:
        ValueError: Invalid logits, labels or bounds, or no bounds.
    """
    pairs = [check_bounds(pair) for pair in bounds]
    if not pairs:
        raise ValueError("bounds is empty; there must be at least one pair (low, high)")
    values, classes = _stack(logits, labels)
    right = float((values.argmax(axis=2) == classes_of(classes)).mean())
    low, high = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    each = _temperatures(values, classes, low, high)
    flat = values.reshape(1, -1, values.shape[2])
    repeated = cast(Targets, np.tile(classes, (len(values), 1)[: classes.ndim]))
    pooled = each if len(each) == 1 else _temperatures(flat, repeated, low, high)
    # Logits that determine no temperature have 1 (`fit_temperature`), which lies within the widest bounds or is moved.
    undetermined = [bool((one == one[..., :1]).all()) for one in (flat[0], *values)]
    found = np.where(undetermined, 1.0, np.append(pooled, each))
    fits = []
    for pair in pairs:
        first, *others = (float(value) for value in found.clip(*pair))
        fits.append(SweepFit(ratio, pair, first, tuple(others), first in pair, right))
    return fits


def sweep_masks(
    source: Callable[[float], tuple[ArrayLike, ArrayLike]],
    ratios: Sequence[float],
    *,
    bounds: Sequence[tuple[float, float]] = ((1.0, 20.0),),
    scored: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    bins: int = 15,
) -> list[SweepFit]:
    """Return `masked_temperature_scaling` at every ratio within every pair of bounds, ratio by ratio.

    The logits of a ratio are asked for once: bounds, pooled fits, fits of single draws and metrics all come from them.

    Args:
        source: Returns the masked logits (draws, M, K) of a ratio and the labels (M,), for example `masked_logits` of a
            network, or what a store has of it.
        ratios: Of masks, each in [0, 1].
        bounds: Pairs (low, high).
        scored: Name → (logits, labels) to be scored at every temperature, for example of ``val``; equal temperatures
            are scored once.
        bins: Of the ``ece`` of those.

    Raises:
        ValueError: As `sweep_logits` and `score`, and what ``source`` raises.
    """
    known: dict[float, dict[str, float]] = {}

    def metrics(temperature: float) -> dict[str, float]:
        if temperature not in known:
            known[temperature] = {
                f"{name}/{metric}": value
                for name, (logits, classes) in (scored or {}).items()
                for metric, value in score(logits, classes, temperature, bins).items()
            }
        return known[temperature]

    fits = []
    for ratio in ratios:
        for fit in sweep_logits(*source(ratio), ratio, bounds):
            fits.append(replace(fit, metrics=dict(metrics(fit.temperature))))
    return fits


def _stack(logits: ArrayLike, labels: ArrayLike) -> tuple[npt.NDArray[np.floating], Targets]:
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}; it must be (F, M, K) with at least one set, image and class"
        )
    sets, images, width = logits.shape
    values = check_matrix(logits.reshape(sets * images, width))
    return values.reshape(sets, images, width), check_targets(labels, (images, width))


def _temperatures(values: npt.NDArray[np.floating], classes: Targets, low: float, high: float) -> Floats:
    """Return the temperature of each set of logits (F, M, K)."""
    return np.array([optimal_temperature(one, classes, low, high) for one in values])
