"""Numbers of a report with where each is from: the trials of finished studies that one cell of a table is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ddcal.config.metrics import possible
from ddcal.config.trial import flatten
from ddcal.errors import cut
from ddcal.statistics import mean_interval, standard_deviation
from ddcal.study.record.results import StudyResults, Trial

BACKBONE = "distill.backbone"

USUAL_IPC = 10
"""What the paper's analyses look at."""

SHOWN_FIRST = ("real", "dc", "dsa", "dm", "mtt", "rtp")
"""Backbones in the order in which the paper has them; others follow."""

MIN_SEEDS = 2
"""An interval needs at least so many."""


def per_class(ipc: int) -> str:
    """Return ``1 image a class`` and the like."""
    return f"{ipc} image{'s' * (ipc != 1)} a class"


@dataclass(frozen=True, eq=False)
class Run:
    """A trial with its study; equal to another of the same number in the same folder."""

    study: StudyResults
    trial: Trial

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, int]:
        return str(self.study.directory), self.trial.number

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved trial as dotted names."""
        return flatten(self.trial.config.model_dump(mode="json"))

    @property
    def seed(self) -> int:
        """The trial's seed."""
        return self.trial.config.seed

    @property
    def gap(self) -> str | None:
        """Why there is no number of this trial; None if there is."""
        outcome = self.trial.outcome
        if outcome == "complete":
            return None
        if outcome is None:
            return f"{self.trial.trial_key} is not finished"
        if outcome == "infeasible":
            metrics = self.trial.metrics or {}
            missed = [
                f"{one.metric} is {metrics[one.metric]:.4g}, not {'>=' if one.at_least else '<='} {one.bound:g}"
                for one in self.study.study.parsed_constraints
                if one.metric in metrics and one.violation(metrics[one.metric]) > 0.0
            ]
            return f"{self.trial.trial_key} is infeasible: {'; '.join(missed) or 'a constraint is violated'}"
        lines = (self.trial.error or "").splitlines()
        reason = cut(lines[0], 200) if lines else "no reason given"
        return f"{self.trial.trial_key} {outcome.replace('_', ' ')}: {reason}"


@dataclass(frozen=True)
class Cell:
    """One number of a report.

    Attributes:
        metric: Of every run, for example ``test/ece``.
        runs: The trials that it is the mean of, by seed.
        gaps: Why trials that belong to it are not among them, a sentence each.
    """

    metric: str
    runs: tuple[Run, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def values(self) -> list[float]:
        """A value a seed: the trial's own mean over its networks."""
        return [float((run.trial.metrics or {})[self.metric]) for run in self.runs]

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None without any."""
        return math.fsum(self.values) / len(self.runs) if self.runs else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds (n − 1); None with fewer than `MIN_SEEDS`."""
        return standard_deviation(self.values) if len(self.runs) >= MIN_SEEDS else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean (Student's t), cut to what is possible; None with fewer than `MIN_SEEDS`."""
        if len(self.runs) < MIN_SEEDS:
            return None
        _, low, high = mean_interval(self.values)
        return None if low is None or high is None else possible(self.metric, low, high)


@dataclass
class Collected:
    """What a report has of one dataset.

    Attributes:
        dataset: Its name.
        studies: Study file's stem → the studies made from it.
    """

    dataset: str
    studies: Mapping[str, Sequence[StudyResults]]
    _runs: dict[str, list[Run]] = field(default_factory=dict)

    def runs(self, stem: str) -> list[Run]:
        """Return every trial of a stem's studies; of trials with equal settings the first.

        They are in the order in which they ran; of studies that search over backbones before all else, in that of
        `SHOWN_FIRST` and of images per class, as there the longest run first.
        """
        if stem not in self._runs:
            found: dict[str, Run] = {}
            for study in self.studies.get(stem, ()):
                for trial in study.records:
                    run = Run(study, trial)
                    found.setdefault(repr(sorted(run.settings.items(), key=lambda item: item[0])), run)
            runs, studies = list(found.values()), self.studies.get(stem, ())
            if studies and all(next(iter(study.study.space), None) == BACKBONE for study in studies):
                runs.sort(key=_place)
            self._runs[stem] = runs
        return self._runs[stem]

    def select(self, stem: str, conditions: Mapping[str, Any]) -> list[Run]:
        """Return the trials whose resolved settings are these, by seed."""
        chosen = [
            run for run in self.runs(stem) if all(run.settings.get(name) == value for name, value in conditions.items())
        ]
        return sorted(chosen, key=lambda run: run.seed)

    def usual_ipc(self, stem: str) -> int:
        """Return the images per class that single figures of a stem look at: `USUAL_IPC`, or the most that were run."""
        there = {run.settings["distill.ipc"] for run in self.runs(stem)}
        return USUAL_IPC if USUAL_IPC in there or not there else max(there)

    def cell(self, stem: str, metric: str, conditions: Mapping[str, Any]) -> Cell:
        """Return the number that these trials make together."""
        return make_cell(metric, self.select(stem, conditions))


def _place(run: Run) -> tuple[int, int]:
    backbone = run.settings[BACKBONE]
    return SHOWN_FIRST.index(backbone) if backbone in SHOWN_FIRST else len(SHOWN_FIRST), run.settings["distill.ipc"]


def make_cell(metric: str, runs: Iterable[Run]) -> Cell:
    """Return the cell of these trials: those that have the metric, and why the others have not."""
    good, gaps = [], []
    for run in runs:
        if run.gap is not None:
            gaps.append(run.gap)
        elif (run.trial.metrics or {}).get(metric) is None:
            gaps.append(f"{run.trial.trial_key} has no {metric}")
        else:
            good.append(run)
    return Cell(metric, tuple(good), tuple(gaps))
