"""What one step of a trial tells of its progress, and which part of it each stage is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ddcal.pipeline.stages import LAST, STAGES


@dataclass(frozen=True)
class Advance:
    """What one call of `TrialRunner.advance` did.

    Attributes:
        stage: The stage that was worked on.
        progress: The share of the planned work that is done, in [0, 1].
        point: The metrics, at a fixed fidelity point alone: ``progress``, ``val/…`` and ``complete``; the last point
            of a trial also has ``test/…``. None between two points.
        cached: Whether the point was replayed from a finished stage.
        waiting: Whether nothing was done, as another process computes the stage.
        fraction: The share of the stage that is done, in [0, 1].
    """

    stage: str
    progress: float
    point: dict[str, Any] | None = None
    cached: bool = False
    waiting: bool = False
    fraction: float = 0.0


def span_of(stage: str, target: str) -> tuple[float, float]:
    """Return which part of a trial's ``progress`` a stage is, whatever the trial ends with."""
    low, high = STAGES[stage].span
    whole = LAST[target].span[1]
    return low / whole, high / whole


def stage_share(stage: str, progress: float, target: str, otherwise: float = 0.0) -> float:
    """Return the share of a stage that is done, in [0, 1], from its trial's ``progress``.

    Args:
        stage: Its name.
        progress: Of the trial, in [0, 1].
        target: A key of `LAST`.
        otherwise: Returned of a stage that is no part of ``progress``.
    """
    low, high = span_of(stage, target)
    return min(1.0, max(0.0, (progress - low) / (high - low))) if high > low else otherwise


def stage_at(progress: float, stages: Collection[str], target: str) -> str | None:
    """Return which of a trial's stages comes next at a ``progress`` in [0, 1]; None of a trial without any.

    Of stages that are no part of ``progress`` it cannot be told whether they are done: they count as done.
    """
    there = [name for name in STAGES if name in stages]
    return next((name for name in there if span_of(name, target)[1] > progress), there[-1] if there else None)
