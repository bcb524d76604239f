"""Means of a few repeated runs, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95


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
    from scipy.stats import t  # half a second to import

    half = float(t.ppf(0.5 + LEVEL / 2.0, len(values) - 1)) * standard_deviation(values) / math.sqrt(len(values))
    return MeanInterval(mean, mean - half, mean + half)
