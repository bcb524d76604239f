"""Which stages a study would need: those of the trials it would draw, and the most that its space has.

The study's own searcher is asked for every trial and told nothing. A searcher that does not learn (random, grid)
answers exactly what it will in the study; one that does (tpe, nsga2) answers what it would before it has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from ddcal.config import TrialConfig
from ddcal.config.space import combinations
from ddcal.pipeline.stages import STAGES
from ddcal.study.plan.planned import Planned, PlannedTrial

UNAFFECTED_BY_RESULTS = ("random", "grid")


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


class Planner(Planned):
    """Goes through the trials that a study will have, or can have."""

    def drawn(self) -> list[PlannedTrial]:
        """Return the trials that the study's searcher suggests without results, enqueued ones first."""
        from ddcal.study.search.search import StudySearch

        search = StudySearch(self.study, None)
        trials: list[PlannedTrial] = []
        while len(trials) < self.study.search.trials and not search.through:  # a grid may be smaller
            trials.append(self.trial(search.ask()[1]))
        return trials

    def candidates(self, stage: str) -> Candidates:
        """Return the different stages of this kind that the space has."""
        found: dict[str, TrialConfig] = {}
        points = combinations(self.study, of=STAGES[stage].reads)
        for point in points:
            trial = self.trial(point)
            if stage in trial.keys:
                found.setdefault(trial.keys[stage], trial.config)
        return Candidates(found, points.every)

    def extremes(self) -> list[PlannedTrial]:
        """Return a trial for every combination of the space's listed values and bounds."""
        return [self.trial(point) for point in combinations(self.study)]

    @property
    def size(self) -> int | None:
        """The number of different trials in the space; None if `extremes` are not all there are."""
        points = combinations(self.study)
        return sum(1 for _ in points) if points.every else None
