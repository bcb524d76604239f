"""The names of the metrics that every result of a trial carries."""

from __future__ import annotations

import math
from typing import Literal

METRICS: dict[str, Literal["min", "max"]] = {
    "accuracy": "max",
    "ece": "min",
    "ece_10": "min",
    "ece_15": "min",
    "nll": "min",
    "brier": "min",
    "classwise_ece": "min",
    "adaptive_ece": "min",
    "adaptive_ece_10": "min",
    "adaptive_ece_15": "min",
    "mce": "min",
    "smooth_ece": "min",
    "brier_calibration": "min",
    "brier_refinement": "min",
    "aurc": "min",
}
"""Metric → the direction in which it is better. Each exists as ``val/…``, and as ``test/…`` in final results alone."""

VAL_METRICS = tuple(f"val/{name}" for name in METRICS)
"""What a study may search, constrain or schedule on."""

_UP_TO = {"nll": math.inf, "brier": 2.0, "brier_calibration": 2.0, "brier_refinement": 2.0}


def possible(metric: str, low: float, high: float) -> tuple[float, float]:
    """Return an interval of a metric without the values that it cannot have: Student's t knows no bounds.

    Args:
        metric: For example ``val/ece`` or ``test/raw/accuracy``.
        low: The lower end.
        high: The upper end.
    """
    name = metric.rpartition("/")[2]
    top = _UP_TO.get(name, 1.0 if name in METRICS else math.inf)
    return min(max(low, 0.0), top), max(min(high, top), 0.0)
