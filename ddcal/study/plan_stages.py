"""Which stages a study would need: those of the trials it would draw, and the most that its space has.

The study's own searcher is asked for every trial and told nothing. A searcher that does not learn (random, grid)
answers exactly what it will in the study; one that does (tpe, nsga2) answers what it would before it has learned.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from ddcal.config import StudyConfig, TrialConfig, resolve, trial_from
from ddcal.config.space import search_order
from ddcal.data import dataset_fingerprint
from ddcal.pipeline import Environment, stage_keys
from ddcal.pipeline.keys import STAGES

READS = {
    "experts": (
        *("seed", "data.", "network.", "distill.network.", "distill.mtt.experts."),
        *("distill.backbone", "distill.family", "distill.ipc", "distill.mtt.max_start", "distill.mtt.expert_epochs"),
    ),
    "distill": ("seed", "data.", "network.", "distill."),
    "train": ("seed", "data.", "network.", "distill.", "train."),
    "folds": (*("seed", "data.", "network.", "distill.", "train."), "calibrate.method", "calibrate.folds"),
    "calibrate": ("seed", "data.", "network.", "distill.", "train.", "calibrate."),
    "evaluate": ("seed", "data.", "network.", "distill.", "train.", "calibrate.", "evaluate."),
}
"""Stage → the names, or beginnings of names, that can change it."""

UNAFFECTED_BY_RESULTS = ("random", "grid")
MAX_COMBINATIONS = 4096
"""Combinations of a space that are listed; of a larger one the extremes are."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial: its resolved config, and stage → key."""

    config: TrialConfig
    keys: dict[str, str]


@dataclass(frozen=True)
class Candidates:
    """The different stages that a study's space has.

    Attributes:
        configs: Key → a resolved trial that has this stage; only the extremes where they are not countable.
        countable: Whether ``configs`` are all there are: no continuous name reaches the stage, and they are not many.
    """

    configs: dict[str, TrialConfig]
    countable: bool

    def most(self, trials: int) -> int:
        """Return the most different ones that so many trials can need."""
        return min(trials, len(self.configs)) if self.countable else trials

    def worst(self, trials: int, published: Set[str], value: Callable[[TrialConfig], float]) -> list[float]:
        """Return the largest values of as many stages as so many trials can need and the store has not."""
        missing = [config for key, config in self.configs.items() if not (self.countable and key in published)]
        values = sorted(map(value, missing), reverse=True)
        return values[:trials] if self.countable else values[:1] * trials


class Planner:
    """Turns values of a study's space into trials with keys."""

    def __init__(self, study: StudyConfig, environment: Environment) -> None:
        """Plan for ``study`` with the stages of ``environment``."""
        self.study, self.environment = study, environment
        self._fingerprints: dict[str, str] = {}

    def trial(self, values: dict[str, Any]) -> PlannedTrial:
        """Return the trial of these active values.

        Raises:
            ddcal.data.DataError: if its data is missing.
        """
        config = resolve(trial_from(self.study.base, values))
        return PlannedTrial(config, self.keys(config))

    def keys(self, config: TrialConfig) -> dict[str, str]:
        """Return stage → key of a trial in the study's environment.

        Raises:
            ddcal.data.DataError: if its data is missing.
        """
        data = config.data.model_dump_json()
        if data not in self._fingerprints:
            self._fingerprints[data] = dataset_fingerprint(config.data)
        return stage_keys(config, self._fingerprints[data], self.environment, self.study.trial)

    def drawn(self) -> list[PlannedTrial]:
        """Return the trials that the study's searcher suggests without results, enqueued ones first."""
        from ddcal.study.search import StudySearch

        search = StudySearch(self.study, None)
        trials: list[PlannedTrial] = []
        while len(trials) < self.study.search.trials and not search.through:  # a grid may be smaller
            trials.append(self.trial(search.ask()[1]))
        return trials

    def candidates(self, stage: str) -> Candidates:
        """Return the different stages of this kind that the space has."""
        found: dict[str, TrialConfig] = {}
        combinations, countable = self._combinations(stage)
        for values in combinations:
            trial = self.trial(values)
            if stage in trial.keys:
                found.setdefault(trial.keys[stage], trial.config)
        return Candidates(found, countable)

    def extremes(self) -> list[PlannedTrial]:
        """Return a trial for every combination of the space's listed values and bounds."""
        return [self.trial(values) for values in self._combinations(STAGES[-1])[0]]

    @property
    def size(self) -> int | None:
        """The number of different trials in the space; None if it cannot be counted."""
        combinations, countable = self._combinations(STAGES[-1])
        return sum(1 for _ in combinations) if countable else None

    def _combinations(self, stage: str) -> tuple[Iterator[dict[str, Any]], bool]:
        """Return different active values of the names that reach a stage, and whether they are all there are."""
        space = self.study.space
        order = search_order(space)
        names = {name for name in order if name.startswith(READS[stage])}
        for name in reversed(order):
            if name in names:
                names.update(other for other in space[name].when if other in space)
        domains = [space[name] for name in order if name in names]
        continuous = any(domain.kind in ("uniform", "loguniform") for domain in domains)
        listed = [
            list(range(domain.corners[0], domain.corners[1] + 1))  # type: ignore[operator,arg-type]
            if domain.kind == "int" and domain.corners[1] - domain.corners[0] < MAX_COMBINATIONS  # type: ignore[operator]
            else list(domain.corners)
            for domain in domains
        ]
        whole = math.prod(map(len, listed)) <= MAX_COMBINATIONS
        if not whole:
            listed = [list(domain.corners) for domain in domains]
        return self._active([name for name in order if name in names], listed), whole and not continuous

    def _active(self, names: list[str], listed: list[list[Any]]) -> Iterator[dict[str, Any]]:
        """Yield active values of all combinations, or of many at random where there are too many."""
        combinations: Iterable[tuple[Any, ...]] = itertools.product(*listed)
        if math.prod(map(len, listed)) > MAX_COMBINATIONS:
            draw = random.Random(0)
            combinations = [tuple(draw.choice(values) for values in listed) for _ in range(MAX_COMBINATIONS)]
        seen = set()
        for combination in combinations:
            values: dict[str, Any] = {}
            for name, value in zip(names, combination, strict=True):
                if self.study.active(values, name):
                    values[name] = value
            identity = repr(values)
            if identity not in seen:
                seen.add(identity)
                yield values
