"""The search: Optuna's ask and tell over a study's space, with conditions, constraints and several objectives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ddcal.config import StudyConfig
from ddcal.config.checks import search_order
from ddcal.config.study import Domain
from ddcal.seeding import derive_seed
from ddcal.study.ledger import Outcome

JOURNAL = "optuna.journal"

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
    """

    def __init__(self, study: StudyConfig, directory: Path) -> None:
        """Open the study's Optuna journal in ``directory``, creating it if missing."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = study
        self.optuna = optuna.create_study(
            study_name=study.name,
            storage=JournalStorage(JournalFileBackend(str(directory / JOURNAL))),
            directions=["minimize" if way == "min" else "maximize" for way in study.objectives.values()],
            load_if_exists=True,
        )
        if not self.optuna.trials:
            for values in study.search.enqueue:
                self.optuna.enqueue_trial(values)
        self._asked: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return (trial number, dotted name → value) of the next trial; inactive conditional names are left out."""
        waiting = TrialState.WAITING  # enqueued and not asked yet: they have no number of their own turn
        number = sum(trial.state is not waiting for trial in self.optuna.get_trials(deepcopy=False))
        self.optuna.sampler = self._sampler(number)
        trial = self.optuna.ask()
        values: dict[str, Any] = {}
        for name in search_order(self.config.space):
            if self.config.active(values, name):
                values[name] = _suggest(trial, name, distribution(self.config.space[name]))
        self._asked[trial.number] = trial
        return trial.number, values

    def annotate(self, number: int, **attributes: Any) -> None:
        """Keep facts with an asked trial, such as its trial key."""
        for name, value in attributes.items():
            self._asked[number].set_user_attr(name, value)

    def tell(self, number: int, outcome: Outcome, metrics: dict[str, float]) -> None:
        """Report how a trial ended; only complete and infeasible ones carry values, and only if all are finite."""
        trial = self._asked.pop(number)
        values = [metrics.get(name, math.nan) for name in self.config.objectives]
        state = STATES[outcome]
        if state is TrialState.COMPLETE and all(map(math.isfinite, values)):
            for constraint in self.config.parsed_constraints:
                trial.set_constraint(constraint.metric, constraint.violation(metrics[constraint.metric]))
            self.optuna.tell(trial, values)
        else:
            self.optuna.tell(trial, state=TrialState.FAIL if state is TrialState.COMPLETE else state)

    def _sampler(self, number: int) -> BaseSampler:
        settings = self.config.search
        seed = derive_seed(settings.seed, "search", settings.searcher, number) % 2**32
        if settings.searcher == "random":
            return RandomSampler(seed=seed)
        if settings.searcher == "nsga2":
            return NSGAIISampler(seed=seed, population_size=max(2, settings.startup))
        return TPESampler(seed=seed, n_startup_trials=settings.startup)


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
