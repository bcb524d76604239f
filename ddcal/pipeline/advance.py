"""What one step of a trial tells of its progress, and which part of it each stage is."""

from __future__ import annotations

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
