"""Means of a few repeated runs and shares of counted images, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.95

MARKED_SEEDS = 5
"""With fewer seeds a number is told, and not whether it can be told from chance (method.md, Variance)."""


class MeanInterval(NamedTuple):
    """A mean over runs with the interval of 95 % of Student's t; of one run the interval is not known."""

    mean: float
    low: float | None
    high: float | None


def standard_deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of at least two values, divided by n − 1."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean of independent values and its 95 % interval (Student 1908): t · s / √n to both sides.

    Args:
        values: At least one.
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return MeanInterval(mean, None, None)
    half = half_width(standard_deviation(values), len(values))
    return MeanInterval(mean, mean - half, mean + half)


def half_width(deviation: float, count: int) -> float:
    """Return half the width of `mean_interval` for at least two values of this standard deviation."""
    from scipy.stats import t  # half a second to import

    return float(t.ppf(0.5 + LEVEL / 2.0, count - 1)) * deviation / math.sqrt(count)


def runs_enough(deviation: float, difference: float, most: int) -> int | None:
    """Return how many runs give an interval (`mean_interval`) of which a half is smaller than a difference.

    Args:
        deviation: The standard deviation of one run.
        difference: Between the mean and what it is held against; deviation and difference are taken to stay.
        most: The largest number that is tried.

    Returns:
        At least 2; None if more than ``most`` are needed.
    """
    if half_width(deviation, most) >= abs(difference):
        return None
    low, high = 1, most  # low is too few, high is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(deviation, middle) < abs(difference) else (middle, high)
    return high


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that was counted on independent cases (Wilson 1927), within [0, 1].

    Also right for shares near 0 and 1, where share ± 1.96 standard errors leaves [0, 1] or has no width.

    Args:
        share: For example an accuracy, 0 to 1; not necessarily a whole number of cases (a mean of networks is none).
        count: Of cases, at least 1.
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2.0)
    middle = (share + z * z / (2.0 * count)) / (1.0 + z * z / count)
    half = z * math.sqrt(share * (1.0 - share) / count + (z / (2.0 * count)) ** 2) / (1.0 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)
