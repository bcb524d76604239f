"""The names of the metrics that every result of a trial carries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
        better: The direction in which it is better.
        most: The largest value that it can have; the least is 0.
        function: Import path ``package.module:NAME`` of what computes it: called with
            (`ddcal.calibration.metrics.predictions.Predictions`, bins), it returns a float. "" for those that
            `ddcal.calibration.metrics.scores.measure` computes together.
    """

    better: Literal["min", "max"] = "min"
    most: float = 1.0
    function: str = ""


METRICS: dict[str, Metric] = {
    "accuracy": Metric("max"),
    "ece": Metric(),
    "ece_10": Metric(),
    "ece_15": Metric(),
    "nll": Metric(most=math.inf),
    "brier": Metric(most=2.0),
    "classwise_ece": Metric(),
    "adaptive_ece": Metric(),
    "adaptive_ece_10": Metric(),
    "adaptive_ece_15": Metric(),
    "mce": Metric(),
    "smooth_ece": Metric(function="ddcal.calibration.metrics.smooth:smooth_error"),
    "brier_calibration": Metric(most=2.0),
    "brier_refinement": Metric(most=2.0),
    "aurc": Metric(),
}
"""Each exists as ``val/…``, and as ``test/…`` in final results alone; a new one is its file and a row here."""

SHIFT_METRICS: dict[str, Metric] = {"auroc": Metric("max"), "fpr95": Metric()}
"""Of ``evaluate.shift.datasets``: they exist on ``test`` alone, where nothing may be selected."""

VAL_METRICS = tuple(f"val/{name}" for name in METRICS)
"""What a study may search, constrain or schedule on."""


def possible(metric: str, low: float, high: float) -> tuple[float, float]:
    """Return an interval of a metric without the values that it cannot have: Student's t knows no bounds.

    Args:
        metric: For example ``val/ece`` or ``test/raw/accuracy``.
        low: The lower end.
        high: The upper end.
    """
    name = metric.rpartition("/")[2]
    known = METRICS | SHIFT_METRICS
    top = known[name].most if name in known else math.inf
    return min(max(low, 0.0), top), max(min(high, top), 0.0)


def better(metric: str) -> Literal["min", "max"]:
    """Return the direction in which a metric such as ``test/raw/accuracy`` is better.

    One that is not in the tables counts as an error, which is better lower: a study names none as its objective, and
    coverages and sizes of prediction sets have no direction of their own.
    """
    name = metric.rpartition("/")[2]
    known = METRICS | SHIFT_METRICS
    return known[name].better if name in known else "min"
