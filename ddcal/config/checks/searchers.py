"""What each searcher and scheduler supports, as two tables, and the checks of a study against them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ddcal.config.metrics import VAL_METRICS
from ddcal.config.problems import KeyPath, Problem, problem_at
from ddcal.config.space import grid_size
from ddcal.config.study import SchedulerConfig, StudyConfig

NUMBERS = frozenset({"uniform", "loguniform", "int"})
FINITE = frozenset({"choice", "int"})
ALL = NUMBERS | FINITE


@dataclass(frozen=True)
class Searcher:
    """What a searcher can learn from; what it cannot is refused, never sampled at random instead.

    Attributes:
        several: Whether it takes several objectives.
        conditions: Whether names may have a ``when``.
        kinds: The kinds of domain that it takes.
        constraints: Whether it takes constraints. Searchers that learn nothing (random, grid) do: there a constraint
            decides which trials are feasible, and promises no more.
        learns: Whether suggestions depend on the outcomes of earlier trials.
        package: A package that it needs and that ddcal does not install by itself; the extra has the searcher's name
            without hyphens.
    """

    several: bool = True
    conditions: bool = True
    kinds: frozenset[str] = ALL
    constraints: bool = True
    learns: bool = True
    package: str | None = None


SEARCHERS = {
    "tpe": Searcher(),
    "random": Searcher(learns=False),
    "nsga2": Searcher(),
    "gp": Searcher(conditions=False),
    "cma-es": Searcher(several=False, conditions=False, kinds=NUMBERS, constraints=False, package="cmaes"),
    "grid": Searcher(kinds=FINITE, learns=False),
}


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler compares trials by, and which settings it reads.

    Attributes:
        compares: ``one`` metric, ``several`` objectives, or None if it stops nothing.
        settings: The keys of ``scheduler`` that have an effect.
    """

    compares: str | None
    settings: tuple[str, ...]


SCHEDULERS = {
    "none": Scheduler(None, ()),
    "asha": Scheduler("one", ("metric", "grace", "reduction")),
    "median": Scheduler("one", ("metric", "grace")),
    "moasha": Scheduler("several", ("grace", "reduction")),
}


def check_search(study: StudyConfig, broken: Collection[str]) -> list[Problem]:
    """Return what the study asks of its searcher that this cannot do, and which searchers could.

    Args:
        study: The study.
        broken: Names of the space whose own problems are known.
    """
    misfits = _misfits(study, study.search.searcher, broken)
    fitting = [name for name in SEARCHERS if not _misfits(study, name, broken)]
    use = f"; use {', '.join(fitting)}" if fitting else ""
    return [problem_at(path, message + use, value) for path, message, value in misfits]


def _misfits(study: StudyConfig, name: str, broken: Collection[str]) -> list[tuple[KeyPath, str, object]]:
    searcher, found = SEARCHERS[name], list[tuple[KeyPath, str, object]]()
    key: KeyPath = ("search", "searcher")
    if len(study.objectives) > 1 and not searcher.several:
        found.append((key, f"{name} follows one objective and there are {', '.join(study.objectives)}", name))
    if study.constraints and not searcher.constraints:
        found.append((key, f"{name} knows no constraints and there is one on {', '.join(study.constraints)}", name))
    for dotted, domain in study.space.items():
        if dotted in broken:
            continue
        if domain.when and not searcher.conditions:
            shown = {other: list(values) for other, values in domain.when.items()}
            found.append((("space", dotted, "when"), f"{name} cannot search under conditions", shown))
        if domain.kind not in searcher.kinds and len(domain.corners) > 1:
            message = f"{name} takes {', '.join(sorted(searcher.kinds))} only"
            if domain.kind in NUMBERS:
                message += ": list the values to try as a choice"
            found.append((("space", dotted, domain.kind), message, list(domain.corners)))
    return found


def check_scheduler(study: StudyConfig) -> list[Problem]:
    """Return what does not fit between the scheduler, its settings and the objectives."""
    settings = study.scheduler
    scheduler = SCHEDULERS[settings.name]
    problems = []
    several = len(study.objectives) > 1
    for key, field in SchedulerConfig.model_fields.items():
        value = getattr(settings, key)
        if key != "name" and key not in scheduler.settings and value != field.default:
            what = f"it reads {', '.join(scheduler.settings)}" if scheduler.settings else "it stops no trial"
            problems.append(problem_at(("scheduler", key), f"scheduler {settings.name} does not use it: {what}", value))
    if scheduler.compares == "several" and not several:
        message = f"it compares trials by several objectives and there is one, {next(iter(study.objectives))}: use asha"
        problems.append(problem_at(("scheduler", "name"), message, settings.name))
    if scheduler.compares == "one" and several and settings.metric is None:
        named = ", ".join(metric for metric in study.objectives if metric in VAL_METRICS)
        message = (
            f"missing: {settings.name} compares by one metric and there are several objectives; "
            f"name one of {named}, or use moasha"
        )
        problems.append(problem_at(("scheduler", "metric"), message))
    return problems


def trials_sentence(study: StudyConfig) -> str:
    """Return how many trials a valid study has, in words; for a grid, how many points, and what becomes of them."""
    trials, names = study.search.trials, f"over {len(study.space)} names"
    if study.search.searcher != "grid":
        return f"{trials} trials {names}"
    points = grid_size(study)
    if trials < points:
        return f"the first {trials} of {points} grid points {names}: search.trials {trials} ends it there"
    return f"{points} grid points {names}; search.trials {trials} is enough for all"
