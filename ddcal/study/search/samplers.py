"""The samplers behind the searchers: made anew for every suggestion, from a seed and the history alone."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from ddcal.config import StudyConfig
from ddcal.config.checks.searchers import SEARCHERS
from ddcal.config.space import grid_points
from ddcal.config.study import SearchConfig
from ddcal.errors import ResourceError


def check_installed(searcher: str) -> None:
    """Refuse a searcher whose package is missing.

    Raises:
        ResourceError: with the command that installs it.
    """
    package = SEARCHERS[searcher].package
    if package is not None and importlib.util.find_spec(package) is None:
        extra = searcher.replace("-", "")
        raise ResourceError(
            f"search.searcher: {searcher} needs the package {package}: pip install 'ddcal[{extra}]' "
            f"(or pip install {package}), or take another searcher"
        )


def make_sampler(settings: SearchConfig, seed: int) -> BaseSampler:
    """Return a fresh sampler; ``grid`` draws at random only what an enqueued point leaves open."""
    if settings.searcher == "nsga2":
        return NSGAIISampler(seed=seed, population_size=max(2, settings.startup))
    if settings.searcher == "gp":
        return ResumableGP(seed=seed, n_startup_trials=settings.startup, warn_independent_sampling=False)
    if settings.searcher == "cma-es":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return CmaEsSampler(seed=seed, n_startup_trials=settings.startup, warn_independent_sampling=False)
    if settings.searcher == "tpe":
        return TPESampler(seed=seed, n_startup_trials=settings.startup)
    return RandomSampler(seed=seed)


class ResumableGP(GPSampler):
    """Optuna's Gaussian process, which would take a trial that is resumed for another one that runs beside it.

    A driver killed between the suggestion and its first value leaves the suggestion with the trial: it is taken from
    there.
    """

    PREFIX = "gp:relative_params:"

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the suggestion that the trial has, else a new one."""
        attributes = trial.system_attrs
        parts = sorted((key for key in attributes if key.startswith(self.PREFIX)), key=lambda key: (len(key), key))
        try:
            return json.loads("".join(attributes[part] for part in parts))
        except ValueError:  # none, or not all of it
            return super().sample_relative(study, trial, search_space)


class PointSampler(BaseSampler):
    """Suggests the values of one point."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        """Suggest ``point``."""
        self._point = point

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: every name is suggested by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the point's value of the name."""
        return self._point[param_name]


class Grid:
    """The points of a study's grid that are not among those tried first, by position; walked through lazily."""

    def __init__(self, study: StudyConfig, tried: Sequence[Mapping[str, Any]]) -> None:
        """Leave out the points ``tried``."""
        self._study = study
        self._tried = {json.dumps(point, sort_keys=True) for point in tried}
        self._walk: Iterator[dict[str, Any]] = iter(())
        self._position, self._last = -1, dict[str, Any]()
        self._end: int | None = None  # a position behind the last point, once one was found
        self._restart()

    def point(self, position: int) -> dict[str, Any] | None:
        """Return the point at ``position``, counted from 0; None behind the last."""
        if self._end is not None and position >= self._end:
            return None
        if position < self._position:
            self._restart()
        steps = position - self._position
        if steps:
            last = next(islice(self._walk, steps - 1, None), None)
            if last is None:
                self._end = position
                self._restart()
                return None
            self._position, self._last = position, last
        return self._last

    def _restart(self) -> None:
        self._position = -1
        points = grid_points(self._study)
        self._walk = (point for point in points if json.dumps(point, sort_keys=True) not in self._tried)
