"""Numbers of the scoreboard: a value a seed, with the trials that each is from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ddcal.analysis.report.cells import MIN_SEEDS, Cell, Run
from ddcal.config.metrics import METRICS
from ddcal.statistics import MARKED_SEEDS, mean_interval


@dataclass(frozen=True)
class Measured:
    """One number of a cell.

    Attributes:
        values: Seed → value, a fraction; a trial's own mean over its networks.
        runs: The trials that hand it on, by seed.
        gaps: Why seeds that belong to it are missing.
        low: The least value that is possible.
        high: The largest.
    """

    values: Mapping[int, float]
    runs: tuple[Run, ...] = ()
    gaps: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None without any."""
        return math.fsum(self.values.values()) / len(self.values) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean (Student's t), cut to what is possible; None with fewer than `MIN_SEEDS`."""
        if len(self.values) < MIN_SEEDS:
            return None
        _, low, high = mean_interval(list(self.values.values()))
        assert low is not None and high is not None, "two values have an interval"
        return max(low, self.low), min(high, self.high)

    @property
    def testable(self) -> bool:
        """Whether it has seeds enough for a mark: below `MARKED_SEEDS` an interval is shown, and nothing said of it."""
        return len(self.values) >= MARKED_SEEDS

    @property
    def sign(self) -> int:
        """1 or -1 where it is `testable` and the whole interval is above or below 0; 0 where nothing is told apart."""
        if self.interval is None or not self.testable:
            return 0
        return (self.interval[0] > 0.0) - (self.interval[1] < 0.0)


def measured(cell: Cell) -> Measured:
    """Return the metric of these trials."""
    metric = METRICS[cell.metric.rpartition("/")[2]]
    values = {run.seed: value for run, value in zip(cell.runs, cell.values, strict=True)}
    return Measured(values, cell.runs, cell.gaps, 0.0, metric.most)


def derived(
    of: Callable[..., float],
    parts: Sequence[Measured],
    *,
    runs: Sequence[Run] = (),
    low: float = -math.inf,
    high: float = math.inf,
) -> Measured:
    """Return a number that is computed seed by seed, of the seeds that all its parts have.

    Args:
        of: Takes a value of each part.
        parts: What it is computed of.
        runs: The trials that hand it on, as far as their seeds count; default: those of the first part.
        low: The least value that is possible.
        high: The largest.
    """
    shared = sorted(set.intersection(*(set(part.values) for part in parts)))
    gaps = tuple(dict.fromkeys(gap for part in parts for gap in part.gaps))
    if not shared and not gaps:
        gaps = ("no seed has all the trials that it is made of",)
    values = {seed: of(*(part.values[seed] for part in parts)) for seed in shared}
    return Measured(values, tuple(run for run in runs or parts[0].runs if run.seed in values), gaps, low, high)


def difference(first: Measured, second: Measured) -> Measured:
    """Return first − second, seed by seed."""
    return derived(lambda a, b: a - b, [first, second], runs=[*first.runs, *second.runs])


def constant(value: Measured, seeds: Sequence[int]) -> Measured:
    """Return a number's mean as the value of every seed: one that does not belong to them."""
    if value.mean is None:
        return Measured({}, (), value.gaps or ("not run",))
    return Measured(dict.fromkeys(seeds, value.mean), value.runs, value.gaps, value.low, value.high)
