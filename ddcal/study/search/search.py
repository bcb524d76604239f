"""The search: Optuna's ask and tell over a study's space, with conditions, constraints and several objectives."""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.trial import TrialState

from ddcal.config import StudyConfig
from ddcal.config.baselines import enqueued_points
from ddcal.config.checks.searchers import SEARCHERS
from ddcal.config.space import active, drawn_point, finite, grid_points, grid_size, search_order
from ddcal.config.study import Domain
from ddcal.seeding import derive_seed
from ddcal.study.record.ledger import Outcome
from ddcal.study.search.journal import DriverJournal
from ddcal.study.search.samplers import Grid, PointSampler, make_sampler

JOURNAL = "optuna.journal"
ENQUEUED = "enqueued"

CARRIES_INACTIVE = ("nsga2",)
"""Searchers whose trials keep a value of inactive names too, as a gene that is silent: Optuna's would otherwise cross
only the names that all trials have, and draw the others at random."""

FIXED = "fixed_params"
"""Where Optuna keeps the values that a trial is to have, in its system attributes: those of enqueued trials, too."""

AHEAD = 16
"""So many trials may be held back, if more than run at a time, where a searcher learns nothing from outcomes."""

DRAWS = 100
"""So often a point is drawn that no trial has had, before the first such point of the grid is taken."""

STATES: dict[Outcome, TrialState] = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "out_of_memory": TrialState.FAIL,
    "killed": TrialState.FAIL,
}


class StudySearch:
    """Suggests values and learns from outcomes; the driver's alone.

    A fresh sampler is made before each suggestion, seeded with (study seed, trial number), so what is suggested depends
    on the history and the number, not on how often the study was opened.

    Trials are deterministic, so a point is not worth a second one: where all names are choices or whole numbers, what
    an earlier trial had is replaced by a point that none has had, drawn from (study seed, trial number). The journal
    has what was run, and a study that an earlier version began, with its repeats, goes on in the same way.
    """

    def __init__(self, study: StudyConfig, directory: Path | None, *, journal: str = JOURNAL) -> None:
        """Open the study's Optuna journal in ``directory``, creating it if missing.

        Args:
            study: The study.
            directory: Its folder; None keeps nothing: for a plan.
            journal: The journal's name there.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = study
        self._journal = DriverJournal(directory / journal) if directory is not None else None
        self.optuna = optuna.create_study(
            study_name=study.name,
            storage=JournalStorage(self._journal) if self._journal is not None else InMemoryStorage(),
            directions=["minimize" if way == "min" else "maximize" for way in study.objectives.values()],
            load_if_exists=True,
        )
        if self.optuna.metric_names is None:  # for optuna-dashboard; numbers otherwise
            with warnings.catch_warnings():  # "experimental" since Optuna 3.2
                warnings.simplefilter("ignore", ExperimentalWarning)
                self.optuna.set_metric_names(list(study.objectives))
        for values in enqueued_points(study)[len(self._enqueued()) :]:
            self.optuna.enqueue_trial(values, user_attrs={ENQUEUED: True})
        enqueued = self._enqueued()
        self._first = len(enqueued)  # they have the first numbers
        self._to_come = sum(trial.state is TrialState.WAITING for trial in enqueued)
        self._asked: dict[int, optuna.Trial] = {}
        self._grid: Grid | None = None
        self._size = grid_size(study) if finite(study) else None
        self._tried: dict[str, int] = {}  # point → the first trial that had it, where points can be counted
        for trial in self.optuna.get_trials(deepcopy=False):
            self._note(trial.number, trial.params)

    @property
    def ahead(self) -> int:
        """How many trials may be asked for and held back: as many as run, or more where outcomes teach nothing."""
        concurrency = self.config.search.concurrency
        return concurrency if SEARCHERS[self.config.search.searcher].learns else max(concurrency, AHEAD)

    @property
    def through(self) -> bool:
        """Whether the space has choices and whole numbers alone and every point of it was asked for."""
        return self._size is not None and not self._to_come and len(self._tried) >= self._size

    def ask(self, known: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return (trial number, dotted name → value) of the next trial; inactive conditional names are left out.

        Args:
            known: The values that it has had already, where a history is gone through again.
        """
        waiting = TrialState.WAITING  # enqueued and not asked yet: they have no number of their own turn
        number = sum(trial.state is not waiting for trial in self.optuna.get_trials(deepcopy=False))
        self.optuna.sampler = self._sampler(number)
        asked = self._suggest_all(self.optuna.ask(), known)
        self._to_come = max(0, self._to_come - 1)
        if known is None:
            self.sync()  # before the ledger says that the trial began
        return asked

    def sync(self) -> None:
        """Return when the journal is on the disk."""
        if self._journal is not None:
            self._journal.sync()

    def unfinished(self, known: Mapping[int, Mapping[str, Any]] | None = None) -> list[tuple[int, dict[str, Any]]]:
        """Return the trials that were asked for and never told, by number, with their values as `ask` gave them.

        Args:
            known: Number → the values that the trial is known to have.
        """
        asked = []
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            values = (known or {}).get(frozen.number)
            self.optuna.sampler = self._sampler(frozen.number)
            asked.append(self._suggest_all(optuna.Trial(self.optuna, frozen._trial_id), values))
        return asked

    def _suggest_all(self, trial: optuna.Trial, known: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        number = trial.number
        quick = known is not None and self.config.search.searcher == "gp"  # it takes seconds, and keeps no memory
        self.optuna.sampler = PointSampler(known or {}) if quick else self._sampler(number)
        _ = trial.relative_params  # drawn now: Optuna would at the first name that is not in the journal yet
        drawn = self._draw(trial, known or {})
        if known is None and (new := self._replacement(trial, drawn)):
            self.optuna._storage.set_trial_system_attr(trial._trial_id, FIXED, new)  # before any of its values
            trial, drawn = optuna.Trial(self.optuna, trial._trial_id), drawn | new
        self.optuna.sampler = PointSampler(drawn)
        values: dict[str, Any] = {}
        for name in search_order(self.config.space):
            is_active = self.config.active(values, name)
            if is_active or self.config.search.searcher in CARRIES_INACTIVE:
                value = _suggest(trial, name, distribution(self.config.space[name]))
                if is_active:
                    values[name] = value
        self._asked[number] = trial
        self._note(number, values)
        return number, values

    def _draw(self, trial: optuna.Trial, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that a trial has, is known or is to have, or that its sampler draws; nothing is written."""
        frozen = self.optuna._storage.get_trial(trial._trial_id)
        values: dict[str, Any] = {}
        point: dict[str, Any] = {}
        for name in search_order(self.config.space):
            is_active, domain = self.config.active(point, name), distribution(self.config.space[name])
            if not is_active and self.config.search.searcher not in CARRIES_INACTIVE:
                continue
            if name in frozen.params:
                values[name] = frozen.params[name]
            elif name in known:
                values[name] = known[name]
            elif name in frozen.system_attrs.get(FIXED, {}):
                values[name] = frozen.system_attrs[FIXED][name]
            elif trial._is_relative_param(name, domain):
                values[name] = trial.relative_params[name]
            else:
                # A generator a name: it does not matter whether a driver before has drawn the names before.
                sampler = self._sampler(trial.number, name)
                values[name] = sampler.sample_independent(self.optuna, frozen, name, domain)
            if is_active:
                point[name] = values[name]
        return values

    def _replacement(self, trial: optuna.Trial, drawn: dict[str, Any]) -> dict[str, Any] | None:
        """Return a point for a trial that would be as one before it; None if it is new, or there is no new point.

        What an enqueued trial is to have stays, and so does what the journal has of a trial already.
        """
        fixed = self.optuna._storage.get_trial(trial._trial_id).system_attrs.get(FIXED, {})
        first = self._tried.get(_identity(active(self.config, drawn)))
        if self._size is None or first is None or first >= trial.number or trial.params:
            return None
        draw = random.Random(derive_seed(self.config.search.seed, "search", "untried", trial.number))
        points = itertools.chain(
            (drawn_point(self.config, draw, fixed) for _ in range(DRAWS)), grid_points(self.config, fixed)
        )
        new = (point for point in points if self._tried.get(_identity(point), trial.number) >= trial.number)
        point = next(new, None)
        return None if point is None else fixed | point

    def _note(self, number: int, values: dict[str, Any]) -> None:
        point = active(self.config, values) if self._size is not None else {}
        whole = all(name in point for name in self.config.space if self.config.active(point, name))
        if self._size is not None and whole:
            self._tried[_identity(point)] = min(number, self._tried.get(_identity(point), number))

    def _enqueued(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self.optuna.get_trials(deepcopy=False) if ENQUEUED in trial.user_attrs]

    def tell(
        self, number: int, outcome: Outcome, metrics: dict[str, float], attributes: dict[str, Any] | None = None
    ) -> None:
        """Report how a trial ended; only complete and infeasible ones carry values, and only if all are finite.

        Args:
            number: The trial's.
            outcome: How it ended.
            metrics: What it measured.
            attributes: Kept as the trial's user attributes, for people who look into the journal; no sampler does.
        """
        trial = self._asked.pop(number)
        for name, value in (attributes or {}).items():
            trial.set_user_attr(name, value)
        state, values = self.verdict(self.config, outcome, metrics)
        if values is not None:
            for constraint in self.config.parsed_constraints:
                trial.set_constraint(constraint.metric, constraint.violation(metrics[constraint.metric]))
            self.optuna.tell(trial, values)
        else:
            self.optuna.tell(trial, state=state)

    @staticmethod
    def verdict(
        study: StudyConfig, outcome: Outcome, metrics: Mapping[str, float]
    ) -> tuple[TrialState, list[float] | None]:
        """Return the state and the objectives that Optuna is told of a trial that has ended so."""
        state = STATES[outcome]
        if state is not TrialState.COMPLETE:
            return state, None
        needed = [*study.objectives, *(constraint.metric for constraint in study.parsed_constraints)]
        if not all(math.isfinite(metrics.get(name, math.nan)) for name in needed):
            return TrialState.FAIL, None
        return state, [metrics[name] for name in study.objectives]

    def _sampler(self, number: int, name: str = "") -> BaseSampler:
        settings = self.config.search
        if settings.searcher == "grid" and (point := self._grid_point(number)) is not None:
            return PointSampler(point)
        return make_sampler(
            settings, derive_seed(settings.seed, "search", f"{settings.searcher} {name}", number) % 2**32
        )

    def _grid_point(self, number: int) -> dict[str, Any] | None:
        """Return the grid's point for a trial; None for an enqueued trial, and behind the last point."""
        if number < self._first:
            return None
        if self._grid is None:
            self._grid = Grid(self.config, [trial.params for trial in self._enqueued()])
        return self._grid.point(number - self._first)


def _identity(point: dict[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)


def distribution(domain: Domain) -> BaseDistribution:
    """Return the Optuna distribution of a domain."""
    if domain.kind == "choice":
        return CategoricalDistribution(domain.corners)
    low, high = domain.corners
    if domain.kind == "int":
        return IntDistribution(low, high)  # type: ignore[arg-type]
    return FloatDistribution(low, high, log=domain.kind == "loguniform")  # type: ignore[arg-type]


def _suggest(trial: optuna.Trial, name: str, domain: BaseDistribution) -> Any:
    if isinstance(domain, CategoricalDistribution):
        return trial.suggest_categorical(name, domain.choices)
    if isinstance(domain, IntDistribution):
        return trial.suggest_int(name, domain.low, domain.high)
    assert isinstance(domain, FloatDistribution)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
