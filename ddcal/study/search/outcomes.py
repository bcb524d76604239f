"""What a study makes of a trial that has run to its end: complete, infeasible, or of no use to it."""

from __future__ import annotations

import math

from ddcal.config import StudyConfig
from ddcal.study.record.ledger import Outcome


def judge(study: StudyConfig, outcome: Outcome, metrics: dict[str, float]) -> tuple[Outcome, str | None]:
    """Return a trial's outcome in the study, and the reason where that differs from its own.

    Args:
        study: For its objectives and constraints.
        outcome: What the worker reported; only ``complete`` is judged.
        metrics: The trial's final metrics.
    """
    if outcome != "complete":
        return outcome, None
    needed = {*study.objectives, *(constraint.metric for constraint in study.parsed_constraints)}
    unusable = sorted(name for name in needed if not math.isfinite(metrics.get(name, math.nan)))
    if unusable:
        return "failed", f"no finite {', '.join(unusable)} to select on"
    violated = [one.metric for one in study.parsed_constraints if one.violation(metrics[one.metric]) > 0]
    if violated:
        bounds = (f"{name} {study.constraints[name]} (is {metrics[name]:.4f})" for name in violated)
        return "infeasible", f"violates {', '.join(bounds)}"
    return "complete", None
