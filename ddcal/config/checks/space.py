"""Whether a search space makes sense: its domains, its conditions, and the trials that it has."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from ddcal.config.names import setting_types, trial_from, trial_names
from ddcal.config.problems import KeyPath, Problem, problem_at, suggestion
from ddcal.config.reading.field_errors import explain
from ddcal.config.resolved import resolve
from ddcal.config.space import (
    MAX_COMBINATIONS,
    Point,
    broken_rules,
    combinations,
    completed,
    not_possible,
    search_order,
)
from ddcal.config.study import Domain, StudyConfig
from ddcal.config.trial import TrialConfig, flatten

TRIED = 2 * MAX_COMBINATIONS
"""Combinations that are tried against the rules: nothing is read for them, so more than a plan can list."""


def check_domain(name: str, domain: Domain) -> list[Problem]:
    """Return why ``name`` may not take the values of ``domain``."""
    types = setting_types(name)
    if types is None:
        inside = [leaf for leaf in trial_names() if leaf.startswith(f"{name}.")]
        hint = f"; it is a section, search one of {', '.join(inside)}" if inside else suggestion(name, trial_names())
        return [problem_at(("space", name), f"no trial has a setting of this name{hint}")]
    path = ("space", name, domain.kind)
    values = list(domain.corners)
    numbers = types & {int, float}
    if name == "seed" and domain.kind != "choice":
        return [problem_at(path, "seeds are replicates and may only be listed: choice: [0, 1, 2]", values)]
    if domain.kind != "choice" and not numbers:
        options = [str(item) for kind in types if get_origin(kind) is Literal for item in get_args(kind)]
        example = ", ".join(options) or ("true, false" if bool in types else "…")
        return [problem_at(path, f"{name} is not a number; use choice: [{example}]", values)]
    if domain.kind in ("uniform", "loguniform") and float not in numbers:
        return [problem_at(path, f"{name} is a whole number; use int: [low, high] or choice: [...]", values)]
    problems = []
    for index, value in enumerate(values):
        if (first := next((other for other in values[:index] if other == value), value)) is not value:
            # A journal keeps which choice was drawn, and would give back the first of them.
            problems.append(problem_at(path, f"this equals {first!r}: keep one of them", value))
        loc = tuple(name.split("."))
        try:
            trial_from({}, {name: value})
        except ValidationError as error:
            problems += [
                problem_at(path, explain(details, TrialConfig), value)
                for details in error.errors(include_url=False)
                if details["loc"] == loc
            ]
    return problems


def check_when(space: Mapping[str, Domain], broken: set[str]) -> list[Problem]:
    """Return what is wrong with the conditions of a space.

    Args:
        space: Name → domain.
        broken: Names whose problems are known; names that depend on themselves or on a circle are added to it.
    """
    problems = []
    for name, domain in space.items():
        for other, allowed in domain.when.items():
            path: KeyPath = ("space", name, "when", other)
            if other == name:
                problems.append(problem_at(path, "a name cannot depend on itself"))
                broken.add(name)
            elif other not in space:
                if other not in broken:
                    problems.append(problem_at(path, f"not a name of the space{suggestion(other, space)}"))
            else:
                for value in allowed:
                    if why := not_possible(space[other], value):
                        problems.append(problem_at(path, why, value))
    while True:
        good = {name: domain for name, domain in space.items() if name not in broken}
        try:
            search_order(good)
            return problems
        except graphlib.CycleError as error:
            circle = error.args[1]
            broken.update(circle)
            problems.append(
                problem_at(("space", circle[0], "when"), f"the conditions form a circle: {' ← '.join(circle)}")
            )


def _violations(study: StudyConfig, point: Mapping[str, Any]) -> dict[tuple[KeyPath, str], str]:
    """Return the rules that a trial breaks: (section, sentence without its values) → sentence."""
    try:
        resolve(trial_from(study.base, point))
    except ValidationError as error:
        return {
            (section, re.sub(r"'[^']*'|-?[0-9][0-9.e+-]*", "#", sentence)): sentence
            for section, sentence in broken_rules(error)
        }
    return {}


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text) is not None


def _points(study: StudyConfig) -> Iterator[Point]:
    """Yield the combinations of the space, and the points that are to be tried first, completed."""
    yield from combinations(study, most=TRIED)
    for values in study.search.enqueue:
        if isinstance(values, dict):
            known = {name: value for name, value in values.items() if name in study.space}
            if not any(not_possible(study.space[name], value) for name, value in known.items()):
                yield completed(study, known)


def check_rules(study: StudyConfig, base: dict[str, Any], broken: set[str]) -> list[Problem]:
    """Return each rule between fields that some trial of the space breaks, once.

    Args:
        study: The study whose space and conditions are tried.
        base: The study's base, nested, without its bad fields.
        broken: Dotted names whose problems are known: they are left out, and so are rules that speak of them.
    """
    space = {name: domain for name, domain in study.space.items() if name not in broken}
    study, given = study.model_copy(update={"base": base, "space": space}), flatten(base)
    problems: dict[tuple[KeyPath, str], Problem] = {}
    for point in _points(study):
        for rule, text in _violations(study, point).items():
            if rule not in problems and not _follows(text, broken):
                problems[rule] = _problem(study, point, rule, text, given)
    return list(problems.values())


def _follows(text: str, broken: set[str]) -> bool:
    return any(_mentions(text, name) or _mentions(text, name.rpartition(".")[2]) for name in broken)


def _problem(
    study: StudyConfig, point: Point, rule: tuple[KeyPath, str], text: str, given: Mapping[str, Any]
) -> Problem:
    """Return the problem at the names of the space that bring about a broken rule, or else at the base."""
    section = ".".join(map(str, rule[0]))

    def named(name: str) -> bool:
        return _mentions(text, name) or (bool(section) and _mentions(text, name.removeprefix(f"{section}.")))

    def decides(name: str) -> bool:
        values = study.space[name].corners
        return any(rule not in _violations(study, completed(study, point | {name: value})) for value in values)

    def gone_without(base: Mapping[str, Any], values: Point) -> bool:
        return rule not in _violations(study.model_copy(update={"base": base}), values)

    involved = [name for name in point if named(name) or decides(name)]
    involved = involved or [name for name in point if gone_without(study.base, _without(point, name))]
    message = f"{section}: {text}" if section else text
    if not involved:
        keys = [name for name in given if named(name)]
        keys += [name for name in given if gone_without(_without(given, name), point)]
        return Problem(f"base.{keys[0] if keys else section}".rstrip("."), "", message)
    shown = ", ".join(f"{name}={point[name]!r}" for name in involved)
    hint = "; narrow the space, or give one of them a when" if len(involved) > 1 else ""
    return Problem(f"space.{involved[0]}", shown, message + hint)


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in values.items() if other != name}
