"""Which searched names matter for which objective: fANOVA over a study's complete and infeasible trials."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from ddcal.study.results import StudyResults, Trial
from ddcal.study.search import distribution

MIN_TRIALS = 4
SEED = 0


@dataclass(frozen=True)
class Importance:
    """The share of an objective's variance that a name explains.

    Attributes:
        objective: For example ``val/ece``.
        name: The searched name.
        share: In [0, 1]; shares of one objective and condition sum to 1. None if there are too few trials.
        trials: How many trials it was computed from.
        where: The condition under which the name is active; empty if it always is.
    """

    objective: str
    name: str
    share: float | None
    trials: int
    where: str


def importances(results: StudyResults) -> list[Importance]:
    """Return the importance of every searched name for every objective, largest first within an objective.

    fANOVA does not care which direction is better. A conditional name is judged among the trials in which it was
    active, together with the names that were active in all of those.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objectives = results.study.objectives
    usable = [
        trial
        for trial in results.records
        if trial.outcome in ("complete", "infeasible")
        and all((trial.metrics or {}).get(name) is not None for name in objectives)
    ]
    found = []
    for objective in objectives:
        rows = []
        for name, domain in results.study.space.items():
            active = [trial for trial in usable if name in trial.values]
            where = " and ".join(f"{other} in {list(values)}" for other, values in domain.when.items())
            share = _share(results, active, objective, name)
            rows.append(Importance(objective, name, share, len(active), where))
        found += sorted(rows, key=lambda row: -1.0 if row.share is None else row.share, reverse=True)
    return found


def _share(results: StudyResults, trials: list[Trial], objective: str, name: str) -> float | None:
    names = [n for n in results.study.space if all(n in trial.values for trial in trials)]
    values = [float((trial.metrics or {})[objective]) for trial in trials]
    if len(trials) < MIN_TRIALS or len({repr(trial.values[name]) for trial in trials}) < 2:
        return None
    if len(set(values)) < 2:
        return 0.0
    study = optuna.create_study()
    for trial, value in zip(trials, values, strict=True):
        study.add_trial(
            optuna.trial.create_trial(
                value=value,
                params={n: trial.values[n] for n in names},
                distributions={n: distribution(results.study.space[n]) for n in names},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=SEED), params=names)
    return float(shares[name])
