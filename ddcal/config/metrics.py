"""The names of the metrics that every result of a trial carries."""

from __future__ import annotations

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
