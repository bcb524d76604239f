"""Masked temperature scaling over many ratios, draws and bounds: every masked image is predicted once.

The negative log-likelihood is convex in 1/T, so the optimum within bounds is the optimum of any wider interval, moved
into them: fits that differ in bounds alone are one fit. Fits of many draws go through the same steps side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ddcal.calibration.checks import ArrayLike, Floats, check_logits_labels
from ddcal.calibration.metrics import score
from ddcal.calibration.temperature import check_bounds

STEPS = 200
"""More than bisection alone needs to reach the last bit."""


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
    """Return the temperatures of many sets of logits, as `fit_temperature` with solver "bounded" finds each.

    The slope of the likelihood in 1/T never falls, so its root stays between two values of which the slope has opposite
    signs: Newton's steps that would leave them are replaced by their middle. Agrees with `fit_temperature` to 1e-9.

    Args:
        logits: (F, M, K) floats, a set after the other.
        labels: (M,) integers, the same for every set.
        bounds: Lowest and highest temperature, 0 < low < high.

    Returns:
        float64 (F,).

    Raises:
        ValueError: Invalid logits, labels or bounds.
    """
    low, high = check_bounds(bounds)
    stack = _stack(logits, labels)
    return _temperatures(_shifted(stack[0]), stack[1], low, high)


def sweep_logits(
    logits: ArrayLike, labels: ArrayLike, ratio: float, bounds: Sequence[tuple[float, float]] = ((1.0, 20.0),)
) -> list[SweepFit]:
    """Return the fits of one ratio's masked logits (draws, M, K) within every pair of bounds, without metrics.

    Args:
        logits: (draws, M, K) floats, from `masked_logits`.
        labels: (M,) integers.
        ratio: What they were masked with; it is told and not used.
        bounds: Pairs (low, high).

    Raises:
        ValueError: Invalid logits, labels or bounds, or no bounds.
    """
    pairs = [check_bounds(pair) for pair in bounds]
    if not pairs:
        raise ValueError("bounds is empty; there must be at least one pair (low, high)")
    values, classes = _stack(logits, labels)
    right = float((values.argmax(axis=2) == classes).mean())
    shifted = _shifted(values)
    low, high = min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    each = _temperatures(shifted, classes, low, high)
    flat = shifted.reshape(1, -1, shifted.shape[2])
    pooled = each if len(each) == 1 else _temperatures(flat, np.tile(classes, len(shifted)), low, high)
    # Logits that determine no temperature have 1 (`fit_temperature`), which lies within the widest bounds or is moved.
    undetermined = [not one.any() for one in (flat[0], *shifted)]
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


def _stack(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, np.ndarray]:
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}; it must be (F, M, K) with at least one set, image and class"
        )
    sets, images, width = logits.shape
    one = labels.repeat(sets) if isinstance(labels, torch.Tensor) else np.tile(np.asarray(labels), sets)
    values, classes = check_logits_labels(logits.reshape(sets * images, width), one)
    return values.reshape(sets, images, width), classes[:images]


def _shifted(values: Floats) -> Floats:
    shifted: Floats = values - values.max(axis=2, keepdims=True)
    return shifted


def _temperatures(shifted: Floats, classes: np.ndarray, low: float, high: float) -> Floats:
    """Return the temperature of each set of logits (F, M, K) whose rows have 0 as their maximum."""
    at_label = shifted[:, np.arange(len(classes)), classes].mean(axis=1)

    def slopes(inverse: Floats, chosen: np.ndarray) -> tuple[Floats, Floats]:
        part = shifted[chosen]
        weights = np.exp(inverse[:, None, None] * part)
        total = weights.sum(axis=2)
        mean = np.einsum("fmk,fmk->fm", weights, part) / total
        square = np.einsum("fmk,fmk,fmk->fm", weights, part, part) / total
        return mean.mean(axis=1) - at_label[chosen], (square - mean**2).mean(axis=1)

    sets = np.arange(len(shifted))
    left, right = np.full(len(sets), 1.0 / high), np.full(len(sets), 1.0 / low)
    temperatures = np.empty(len(sets))
    flat = ~shifted.any(axis=(1, 2))
    sharpest = slopes(right, sets)[0] <= 0.0
    softest = slopes(left, sets)[0] >= 0.0
    temperatures[softest], temperatures[sharpest] = high, low  # sharpest first, as `fit_temperature`
    temperatures[flat] = min(max(1.0, low), high)
    open_ = np.flatnonzero(~(sharpest | softest | flat))
    inverse = np.sqrt(left * right)
    last = 4.0 * np.finfo(np.float64).eps
    for _ in range(STEPS):
        if not len(open_):
            break
        now = inverse[open_]
        slope, curvature = slopes(now, open_)
        left[open_] = np.where(slope < 0.0, now, left[open_])
        right[open_] = np.where(slope < 0.0, right[open_], now)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = now - slope / curvature
        inside = (step > left[open_]) & (step < right[open_])
        new = np.where(inside, step, 0.5 * (left[open_] + right[open_]))
        inverse[open_] = np.where(slope == 0.0, now, new)
        done = (slope == 0.0) | (np.abs(new - now) <= last * now)
        temperatures[open_[done]] = 1.0 / inverse[open_[done]]
        open_ = open_[~done]
    temperatures[open_] = 1.0 / inverse[open_]
    return temperatures.clip(low, high)
