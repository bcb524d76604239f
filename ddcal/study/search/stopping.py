"""When a study ends before its last trial because nothing improves any more."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.study.record.events import TrialFinished
from ddcal.study.record.ledger import LEDGER, read_ledger


class Plateau:
    """Counts the finished trials since the best feasible value, or the Pareto front, has improved last.

    Attributes:
        since: How many trials have ended since then; 0 before the first feasible trial.
        reached: Whether ``stop.plateau`` trials in a row have improved nothing; for good, whatever the trials that run
            by then still find.
    """

    def __init__(self, study: StudyConfig, directory: Path | None = None) -> None:
        """Begin to count, after the trials that the ledger in ``directory`` has, in the order in which they ended."""
        self._signs = {name: 1.0 if way == "min" else -1.0 for name, way in study.objectives.items()}
        self._limit = study.stop.plateau
        self._front: list[tuple[float, ...]] = []
        self.since = 0
        self.reached = False
        if directory is not None and (directory / LEDGER).is_file():
            for event in read_ledger(directory):
                if isinstance(event, TrialFinished):
                    self.add(event.outcome, event.metrics)

    def add(self, outcome: str, metrics: dict[str, Any]) -> None:
        """Count a finished trial."""
        values = {name: math.nan if metrics.get(name) is None else metrics[name] for name in self._signs}
        point = tuple(sign * values[name] for name, sign in self._signs.items())
        feasible = outcome == "complete" and all(map(math.isfinite, point))
        if feasible and not any(_at_least_as_good(other, point) for other in self._front):
            self._front = [other for other in self._front if not _at_least_as_good(point, other)] + [point]
            self.since = 0
        elif self._front:
            self.since += 1
        self.reached = self.reached or (self._limit is not None and self.since >= self._limit)


def _at_least_as_good(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(first, second, strict=True))
