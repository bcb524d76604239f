"""The search space: the order of its names, and whether their domains and conditions make sense."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from ddcal.config.field_errors import explain
from ddcal.config.names import trial_from, trial_names
from ddcal.config.problems import KeyPath, Problem, problem_at, suggestion
from ddcal.config.study import Domain
from ddcal.config.trial import TrialConfig


def search_order(space: Mapping[str, Domain]) -> tuple[str, ...]:
    """Return the names of a space such that every name comes after those that its ``when`` looks at.

    Raises:
        graphlib.CycleError: (a ValueError) if names depend on each other in a circle.
    """
    return tuple(
        graphlib.TopologicalSorter({n: [o for o in d.when if o in space] for n, d in space.items()}).static_order()
    )


def same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, where 1 and true are not."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def not_possible(domain: Domain, value: Any) -> str:
    """Return why ``domain`` cannot take ``value``, or an empty string."""
    corners = domain.corners
    if domain.kind == "choice":
        fits = any(same(value, corner) for corner in corners)
        return "" if fits else f"must be one of {', '.join(map(str, corners))}{suggestion(value, [*map(str, corners)])}"
    number = isinstance(value, int) or (isinstance(value, float) and domain.kind != "int")
    if not number or isinstance(value, bool) or not math.isfinite(value) or not corners[0] <= value <= corners[1]:
        kind = "whole number" if domain.kind == "int" else "number"
        return f"must be a {kind} from {corners[0]} to {corners[1]}, as in the space"
    return ""


def check_domain(name: str, domain: Domain) -> list[Problem]:
    """Return why ``name`` may not take the values of ``domain``."""
    types = trial_names().get(name)
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
    for value in values:
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
