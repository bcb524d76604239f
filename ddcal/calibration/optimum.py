"""The temperature of least negative log-likelihood within bounds: one root of a function that never falls.

The likelihood is convex in x = 1/T, and its slope is the mean of (expected logit less the label's logit; of a soft
label q, whose loss is the cross-entropy to q, less the logit that q expects: nothing else changes). Halley's
steps (Newton's, with the second derivative of the slope) triple the right digits each time; a bracket that the signs of
the slope narrow keeps them in, and its geometric middle stands in for steps that leave it or do not shrink.

Logits are visited in blocks that stay in the processor's cache, each class a row of the block, and made float64 there.
Many of them are first fitted by a sample, from which two passes over all reach the last digits. Sums are taken block by
block in one order by one thread: the number of threads changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ddcal.calibration.checks import Targets
from ddcal.calibration.metrics.predictions import blocks

Slopes = Callable[[float], tuple[float, float, float]]

STEPS = 500
"""More than bisection alone needs, between any two positive numbers, to reach the last bit."""
CLOSE = 1e-6
"""A step of this part of x is the last one. The logarithm of a sum of exponentials has no feature narrower than x / 745
(beyond, they underflow), so that what is left after Halley's step is below its cube times 745² / 12."""
SAMPLE_BLOCKS = 4
"""The size of the sample, in blocks, that many logits are fitted by first."""
MANY_BLOCKS = 16
"""More blocks than these are many."""


class LikelihoodSlopes:
    """The slope of the mean negative log-likelihood in x = 1/T, with two derivatives.

    Args:
        scores: float32 or float64 (N, K), finite.
        classes: int64 (N,) in 0..K-1, or soft labels, float64 (N, K), whose rows sum to 1.

    Attributes:
        flat: Whether the logits of every row are equal, so that no temperature is better than another.
        at_label: The mean over rows of the label's logit less the largest one (of a soft label the expected logit);
            0 exactly if every label is a largest one, and the sharpest temperature the best.
    """

    def __init__(self, scores: npt.NDArray[np.floating], classes: Targets) -> None:
        self._scores, self._blocks = scores, blocks(scores.shape)
        size = self._blocks[0].stop
        self._shifted, self._weights = (np.empty((scores.shape[1], size)) for _ in range(2))
        self._largest = np.empty(len(scores))
        self.flat, total = True, 0.0
        for block in self._blocks:
            values = self._shifted[:, : block.stop - block.start]
            np.copyto(values, scores[block].T)
            largest = self._largest[block] = values.max(axis=0)
            self.flat = self.flat and bool((values == largest).all())
            values -= largest  # no exponential can overflow
            if classes.ndim == 2:
                total += float((classes[block].T * values).sum(axis=0).sum())
            else:
                total += float(values[classes[block], np.arange(len(largest))].sum())
        self.at_label = total / len(scores)

    def __call__(self, inverse: float) -> tuple[float, float, float]:
        """Return the slope at x, in nats per unit of x, and its first and second derivatives there."""
        sums = np.zeros(3)
        for block in self._blocks:
            shifted = self._shifted[:, : block.stop - block.start]
            weights = self._weights[:, : block.stop - block.start]
            if len(self._blocks) > 1:  # a single block is still there
                np.copyto(shifted, self._scores[block].T)
                shifted -= self._largest[block]
            with np.errstate(over="ignore", invalid="ignore"):  # huge logits: a weight of 0, or derivatives without use
                np.multiply(shifted, inverse, out=weights)
                np.exp(weights, out=weights)
                total = weights.sum(axis=0)
                weights *= shifted
                first = weights.sum(axis=0) / total
                weights *= shifted
                second = weights.sum(axis=0) / total
                weights *= shifted
                third = weights.sum(axis=0) / total
                square = first * first
                sums[0] += first.sum()
                sums[1] += (second - square).sum()
                sums[2] += (third - first * (3.0 * second - 2.0 * square)).sum()
        expected, variance, skew = (float(value) for value in sums / len(self._scores))
        return expected - self.at_label, variance, skew


def optimal_temperature(scores: npt.NDArray[np.floating], classes: Targets, low: float, high: float) -> float:
    """Return the temperature within ``low`` and ``high`` of least negative log-likelihood, to near machine precision.

    A bound is returned as it was given. Logits without a preference give 1, moved into the bounds.

    Args:
        scores: float32 or float64 (N, K), finite; both give the same bits where their values are the same.
        classes: int64 (N,) in 0..K-1, or soft labels, float64 (N, K), whose rows sum to 1.
        low: Lowest temperature, above 0.
        high: Highest temperature, above ``low``.
    """
    slopes = LikelihoodSlopes(scores, classes)
    if slopes.flat:
        return min(max(1.0, low), high)
    if slopes.at_label == 0.0:  # the slope is nowhere positive, and may underflow to 0 at large logits
        return low
    left, right = 1.0 / high, 1.0 / low
    count = len(blocks(scores.shape))
    if count > MANY_BLOCKS:
        step = count // SAMPLE_BLOCKS
        start = min(max(1.0 / optimal_temperature(scores[::step], classes[::step], low, high), left), right)
    else:
        start = math.sqrt(left) * math.sqrt(right)
    inverse = root_within(slopes, left, right, start)
    if inverse in (left, right):
        return high if inverse == left else low
    return min(max(1.0 / inverse, low), high)


def root_within(slopes: Slopes, left: float, right: float, start: float) -> float:
    """Return the root of a function that never falls; the end that is nearest to it where it lies outside.

    Where the function is 0 along a stretch (underflow), the right end of that stretch or of the interval counts.

    Args:
        slopes: Returns the function's value and its first and second derivatives.
        left: The least that is returned, above 0; the function is asked for there only if the root may lie beyond.
        right: The most, likewise.
        start: Where to begin, within both.
    """
    first, last, untried = left, right, {left, right}
    now, before = start, math.inf
    for _ in range(STEPS):
        value, slope, bend = slopes(now)
        untried.discard(now)
        if value == 0.0 and slope > 0.0:
            return now
        rising = value <= 0.0
        if now == (last if rising else first):
            return now
        left, right = (now, right) if rising else (left, now)
        step = _halley(value, slope, bend)
        if abs(step) <= CLOSE * now:
            return min(max(now + step, left), right)
        new = now + step if math.isfinite(step) else (right if rising else left)
        if new <= left or new >= right:  # an end that was never tried may be the answer
            new = right if rising else left
            leaves = new not in untried
        else:
            leaves = abs(step) > 0.5 * before
        if leaves:
            new = math.sqrt(left) * math.sqrt(right)
            if not left < new < right:
                return now
        before, now = abs(new - now), new
    return now


def _halley(value: float, slope: float, bend: float) -> float:
    """Return Halley's step; infinite or NaN where the derivatives allow none."""
    if not slope > 0.0 or not math.isfinite(bend):
        return math.nan
    newton = -value / slope
    ratio = 1.0 + 0.5 * newton * bend / slope
    return newton / ratio if 0.5 <= ratio <= 2.0 else newton
