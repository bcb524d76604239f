"""Which searched names matter for which objective: fANOVA over a study's complete trials, and how sure that is."""

from __future__ import annotations

import math
import random
import statistics
import warnings
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from ddcal.config.study import Domain
from ddcal.seeding import derive_seed
from ddcal.study.record.results import StudyResults, Trial
from ddcal.study.search.search import distribution

MIN_TRIALS = 4
ENOUGH_TRIALS = 30
"""Below this the shares are mostly noise, and tables and pictures say so."""

RESAMPLES, TREES, RESAMPLED_TRIALS = 10, 8, 150
"""How often trials are drawn, for how many trees, and how many trials at most (fewer trials: wider intervals)."""

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Importance:
    """The share of an objective's variance that a name explains.

    Attributes:
        objective: For example ``val/ece``.
        name: The searched name.
        share: The mean of `RESAMPLES` shares, each from trials drawn with replacement: in [0, 1], and those of one
            objective and condition sum to 1. None if there are too few trials, or all have
            one value.
        low: The lowest of the same shares; None as ``share``.
        high: The highest of them. One more draw would lie from ``low`` to ``high`` in 9 of 11 cases (82 %).
        better: What makes the objective better: ``higher`` or ``lower`` values (rank correlation), or the choice with
            the best median (Kruskal-Wallis); ``unclear`` above a p-value of 0.05. None as ``share``.
        trials: How many trials it was computed from.
        where: The condition under which the name is active; empty if it always is.
    """

    objective: str
    name: str
    share: float | None
    low: float | None
    high: float | None
    better: str | None
    trials: int
    where: str

    @property
    def without_share(self) -> str:
        """Why it has no share."""
        return "too few" if self.trials < MIN_TRIALS else "one value"


def importances(results: StudyResults) -> list[Importance]:
    """Return the importance of every searched name for every objective, largest first within an objective.

    fANOVA does not care which direction is better; ``better`` does. A conditional name is judged among the trials in
    which it was active, together with the names that were active in all of those.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = results.study.objectives
    usable = [
        trial
        for trial in results.records
        if trial.outcome == "complete" and all((trial.metrics or {}).get(name) is not None for name in objectives)
    ]
    found = []
    for objective, way in objectives.items():
        known: dict[
            tuple[int, ...], dict[str, tuple[float, float, float]]
        ] = {}  # names of one condition share a forest
        rows = []
        for name, domain in results.study.space.items():
            active = [trial for trial in usable if name in trial.values]
            where = " and ".join(f"{other} in {list(values)}" for other, values in domain.when.items())
            if len(active) < MIN_TRIALS or len({repr(trial.values[name]) for trial in active}) < 2:
                rows.append(Importance(objective, name, None, None, None, None, len(active), where))
                continue
            group = tuple(trial.number for trial in active)
            if group not in known:
                known[group] = _shares_with_spread(results, active, objective)
            share, low, high = known[group].get(name, (0.0, 0.0, 0.0))
            better = _better(domain, name, objective, active, way == "min")
            rows.append(Importance(objective, name, share, low, high, better, len(active), where))
        found += sorted(rows, key=lambda row: -1.0 if row.share is None else row.share, reverse=True)
    return found


def caution(found: list[Importance]) -> str | None:
    """Return a sentence if the shares rest on too few trials to be more than a hint."""
    few = [one.trials for one in found if one.trials < ENOUGH_TRIALS]
    if not few:
        return None
    counts = f"{min(few)}" if min(few) == max(few) else f"{min(few)} to {max(few)}"
    return f"from {counts} trials: below about {ENOUGH_TRIALS} these shares are mostly noise; look at the intervals"


def _shares_with_spread(
    results: StudyResults, trials: list[Trial], objective: str
) -> dict[str, tuple[float, float, float]]:
    """Return name → (share, low, high), all from the same draws: so an interval holds its estimate."""
    names = _varied(results, trials)
    size = min(len(trials), RESAMPLED_TRIALS)
    drawn: list[dict[str, float]] = []
    for index in range(5 * RESAMPLES):  # a draw in which nothing varies says nothing
        generator = random.Random(derive_seed(0, "importance", objective, index))
        shares = _shares(results, generator.choices(trials, k=size), objective, seed=index)
        drawn += [] if shares is None else [shares]
        if len(drawn) == RESAMPLES:
            break
    spread = {}
    for name in names:
        found = [shares.get(name, 0.0) for shares in drawn] or [0.0]
        low, high = min(found), max(found)
        spread[name] = (min(max(statistics.fmean(found), low), high), low, high)
    return spread


def _varied(results: StudyResults, trials: list[Trial]) -> list[str]:
    """Return the names that all trials have, with more than one value."""
    names = [n for n in results.study.space if all(n in trial.values for trial in trials)]
    return [n for n in names if len({repr(trial.values[n]) for trial in trials}) > 1]


def _measured(trial: Trial, objective: str) -> float:
    return float((trial.metrics or {})[objective])


def _shares(results: StudyResults, trials: list[Trial], objective: str, *, seed: int) -> dict[str, float] | None:
    """Return name → share, which sum to 1; None if these draws of trials do not vary."""
    names = _varied(results, trials)
    values = [_measured(trial, objective) for trial in trials]
    if len(set(values)) < 2 or not names:
        return None
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=value,
                params={n: trial.values[n] for n in names},
                distributions={n: distribution(results.study.space[n]) for n in names},
            )
            for trial, value in zip(trials, values, strict=True)
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
        found = get_param_importances(study, evaluator=evaluator, params=names)
    shares = {name: max(0.0, float(share)) if math.isfinite(share) else 0.0 for name, share in found.items()}
    total = math.fsum(shares.values())
    return {name: share / total for name, share in shares.items()} if total else None


def _better(domain: Domain, name: str, objective: str, trials: list[Trial], minimise: bool) -> str:
    """Return which values of a name go with a better objective, or ``unclear``."""
    from scipy.stats import kruskal, spearmanr

    measured = [float((trial.metrics or {})[objective]) for trial in trials]
    if len(set(measured)) < 2:
        return "unclear"
    if domain.kind != "choice":
        rank = spearmanr([trial.values[name] for trial in trials], measured)
        if not rank.pvalue <= SIGNIFICANCE:
            return "unclear"
        return "lower" if (rank.statistic > 0) == minimise else "higher"
    groups: dict[str, list[float]] = {}
    for trial, value in zip(trials, measured, strict=True):
        groups.setdefault(str(trial.values[name]), []).append(value)
    if not kruskal(*groups.values()).pvalue <= SIGNIFICANCE:
        return "unclear"
    medians = {choice: statistics.median(values) for choice, values in groups.items()}
    return (min if minimise else max)(medians, key=lambda choice: medians[choice])
