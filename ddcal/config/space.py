"""The search space: the one walker over its points. A point is complete: a value for every name that is active in it.

Whoever asks what trials a study can have (`validate`, the plan, the searchers, the checks of data and files) takes
points from here, and the trial of a point from `trial_of`: what holds between two settings holds for whole trials
alone, so no part of a trial is ever validated.
"""

from __future__ import annotations

import graphlib
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ddcal.config.names import trial_from
from ddcal.config.problems import ConfigError, KeyPath, Problem, suggestion
from ddcal.config.resolved import resolve
from ddcal.config.study import Domain, StudyConfig
from ddcal.config.trial import Contradictions, TrialConfig

MAX_COMBINATIONS = 4096
"""Combinations that are listed: of a larger space as many, half of them those of two names each, half at random."""

Point = dict[str, Any]
"""Dotted name → value, of the names that are active."""

_OTHER = object()
"""Stands for all values of a name that no condition mentions."""


def same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, where 1 and true are not."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def of_the_domain(domain: Domain, value: Any) -> Any:
    """Return a possible value as the domain has it: 1 for 1.0, where that is its choice or it has whole numbers."""
    if domain.kind == "int":
        return int(value)
    return next((one for one in domain.corners if same(one, value)), value) if domain.kind == "choice" else value


def search_order(space: Mapping[str, Domain]) -> tuple[str, ...]:
    """Return the names of a space in the file's order, but each after those that its ``when`` looks at.

    The points of a grid are numbered in this order, so it never changes. What a searcher suggests does not depend on
    it: every name is drawn by a generator of its own.

    Raises:
        graphlib.CycleError: (a ValueError) if names depend on each other in a circle.
    """
    names, order, free = list(space), list[str](), list[int]()
    positions = {name: index for index, name in enumerate(names)}
    sorter = graphlib.TopologicalSorter({n: [o for o in d.when if o in space] for n, d in space.items()})
    sorter.prepare()
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(free, positions[name])
        order.append(names[heapq.heappop(free)])
        sorter.done(order[-1])
    return tuple(order)


def active(study: StudyConfig, values: Mapping[str, Any], order: Iterable[str] | None = None) -> Point:
    """Return those of ``values`` that have an effect.

    Args:
        study: Whose space it is.
        values: Values of names of the space; names that have none are left out, and what depends on them.
        order: The names to look at, as `search_order` gives them; default: all.
    """
    point: Point = {}
    for name in search_order(study.space) if order is None else order:
        if name in values and study.active(point, name):
            point[name] = values[name]
    return point


def trial_of(study: StudyConfig, point: Mapping[str, Any]) -> TrialConfig:
    """Return the resolved trial of a complete point.

    Raises:
        ConfigError: if the settings of the trial contradict each other. `check_rules` finds that before a study runs,
            but of a space too large to be listed it tries a part alone.
    """
    try:
        return resolve(trial_from(study.base, point))
    except ValidationError as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in point.items())
        cure = "; narrow the space, or give a name a when" if point else ""
        message = "; ".join(".".join(map(str, loc)) + (": " if loc else "") + text for loc, text in broken_rules(error))
        raise ConfigError([Problem("space" if point else "base", shown, message + cure)]) from None


def broken_rules(error: ValidationError) -> list[tuple[KeyPath, str]]:
    """Return the sentences on what contradicts itself in a trial, each with the section that says so."""
    found = []
    for details in error.errors(include_url=False):
        raised = details["ctx"]["error"] if details["type"] == "value_error" else details["msg"]
        sentences = raised.sentences if isinstance(raised, Contradictions) else [str(raised)]
        found += [(details["loc"], sentence) for sentence in sentences]
    return found


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


# Grids: every value of choices and whole numbers


def finite(study: StudyConfig) -> bool:
    """Return whether the space has choices and whole numbers alone."""
    return all(domain.kind in ("choice", "int") for domain in study.space.values())


def grid_points(study: StudyConfig, given: Mapping[str, Any] | None = None) -> Iterator[Point]:
    """Yield the points of a finite space one by one, each once.

    The first name of the file varies slowest, the last one fastest; a name comes after those that its ``when`` looks
    at. Nothing is kept, so a grid may be as large as it likes.

    Args:
        study: Whose space it is.
        given: Values that names have in every point.
    """
    return _points(study, _listed(study) | {name: [value] for name, value in (given or {}).items()})


def grid_size(study: StudyConfig) -> int:
    """Return how many points a finite space has, without going through them."""
    return _count(study, _listed(study))


def drawn_point(study: StudyConfig, draw: random.Random, given: Mapping[str, Any] | None = None) -> Point:
    """Return a point at random, every name by its own domain: not what any searcher draws.

    Args:
        study: Whose space it is.
        draw: What it is drawn from.
        given: Values that names have where they are active.
    """
    names = search_order(study.space)
    return active(study, {name: _drawn(study.space[name], draw) for name in names} | dict(given or {}), names)


# Combinations: what is tried of any space


@dataclass(frozen=True)
class Combinations:
    """Different points of a space, one for each combination of some of its names.

    Attributes:
        points: The points.
        every: Whether the names have no other combinations than these.
    """

    points: Iterable[Point]
    every: bool

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)


def combinations(study: StudyConfig, of: Sequence[str] = ("",), most: int = MAX_COMBINATIONS) -> Combinations:
    """Return complete points with the combinations of some names; the others have their first value where active.

    A choice has all its values, a range of whole numbers too where there are no more than ``most`` combinations, other
    ranges have their bounds and the values that conditions mention. Of more than ``most`` combinations these are
    returned: every value of two names with each other, then some at random, of the bounds first and then of the whole
    ranges.

    Args:
        study: Whose space it is.
        of: Names, or beginnings of names; what their conditions look at is added.
        most: How many combinations are listed.
    """
    order = search_order(study.space)
    names = {name for name in order if name.startswith(tuple(of))}
    for name in reversed(order):
        if name in names:
            names.update(other for other in study.space[name].when if other in study.space)
    extremes = {name: _extremes(study, name) if name in names else _extremes(study, name)[:1] for name in order}
    whole = {name: _every(study.space[name]) if name in names else extremes[name] for name in order}
    listed = {name: extremes[name] if values is None else values for name, values in whole.items()}
    if _count(study, listed) <= most:
        return Combinations(_points(study, listed), every=all(values is not None for values in whole.values()))
    if _count(study, extremes) <= most:
        return Combinations(_points(study, extremes), every=False)
    return Combinations(_different(_some(study, order, names, extremes, most)), every=False)


def completed(study: StudyConfig, values: Mapping[str, Any]) -> Point:
    """Return a complete point that has ``values``; names that they leave open have their first value."""
    return active(study, {name: _extremes(study, name)[0] for name in study.space} | dict(values))


def _some(
    study: StudyConfig, order: Sequence[str], names: set[str], extremes: Mapping[str, Sequence[Any]], most: int
) -> Iterator[Point]:
    first = {name: values[0] for name, values in extremes.items()}
    pairs = itertools.combinations([name for name in order if name in names], 2)
    settings = ({a: x, b: y} for a, b in pairs for x, y in itertools.product(extremes[a], extremes[b]))
    for setting in itertools.islice(settings, most // 2):
        yield active(study, _enabled(study, setting, first | setting), order)
    draw = random.Random(0)
    for _ in range(most // 4):
        values = {name: draw.choice(choices) for name, choices in extremes.items()}
        yield active(study, _enabled(study, order, values), order)
    for _ in range(most // 4):
        drawn = {name: _drawn(study.space[name], draw) if name in names else first[name] for name in order}
        yield active(study, drawn, order)


def _enabled(study: StudyConfig, names: Iterable[str], values: Point) -> Point:
    """Change the values that conditions of ``names`` look at, so that these are active."""
    for name in names:
        for other, allowed in study.space[name].when.items():
            if other in values:
                if not any(same(values[other], value) for value in allowed):
                    values[other] = allowed[0]
                _enabled(study, [other], values)
    return values


def _different(points: Iterable[Point]) -> Iterator[Point]:
    seen = set()
    for point in points:
        identity = repr(point)
        if identity not in seen:
            seen.add(identity)
            yield point


# The walk itself


def _points(study: StudyConfig, values: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    """Yield every point of these values, whose names are in the search's order."""
    order = list(values)

    def complete(index: int, point: Point) -> Iterator[Point]:
        if index == len(order):
            yield point
        elif study.active(point, order[index]):
            for value in values[order[index]]:
                yield from complete(index + 1, point | {order[index]: value})
        else:
            yield from complete(index + 1, point)

    return complete(0, {})


def _count(study: StudyConfig, values: Mapping[str, Sequence[Any]]) -> int:
    """Return how many points `_points` yields.

    Names are taken in order; what is remembered of those before is only what a later condition looks at.
    """
    order = list(values)
    last_look = {other: index for index, name in enumerate(order) for other in study.space[name].when}
    counts: Counter[tuple[tuple[str, Any], ...]] = Counter({(): 1})
    for index, name in enumerate(order):
        following: Counter[tuple[tuple[str, Any], ...]] = Counter()
        for remembered, count in counts.items():
            kept = tuple(item for item in remembered if last_look[item[0]] > index)
            if not study.active(dict(remembered), name):
                following[kept] += count
            elif name in last_look:
                for value, times in _kinds(study, order, name, values[name]):
                    following[*kept, (name, value)] += count * times
            else:
                following[kept] += count * len(values[name])
        counts = following
    return counts.total()


def _kinds(study: StudyConfig, order: list[str], name: str, values: Sequence[Any]) -> list[tuple[Any, int]]:
    """Return the values of a name that conditions tell apart, and how many values each of them stands for."""
    if not isinstance(values, range):
        return [(value, 1) for value in values]
    looked_at = {value for other in order for value in study.space[other].when.get(name, ()) if value in values}
    others = len(values) - len(looked_at)
    return [(value, 1) for value in looked_at] + ([(_OTHER, others)] if others else [])


def _listed(study: StudyConfig) -> dict[str, Sequence[Any]]:
    listed = {}
    for name in search_order(study.space):
        values = _every(study.space[name])
        assert values is not None, "only choices and whole numbers are counted"
        listed[name] = values
    return listed


def _every(domain: Domain) -> Sequence[Any] | None:
    """Return all values of a domain; None where they are not to be counted."""
    if domain.kind == "choice":
        return domain.corners
    low, high = domain.corners
    return range(low, high + 1) if isinstance(low, int) and isinstance(high, int) and domain.kind == "int" else None


def _extremes(study: StudyConfig, name: str) -> list[Any]:
    """Return the values of a choice, or the bounds of a range and the values in it that conditions mention."""
    found = list(study.space[name].corners)
    for domain in study.space.values():
        for value in domain.when.get(name, ()):
            if not any(same(value, seen) for seen in found) and not not_possible(study.space[name], value):
                found.append(value)
    return found


def _drawn(domain: Domain, draw: random.Random) -> Any:
    if domain.kind == "choice":
        return draw.choice(domain.corners)
    low, high = domain.corners
    assert isinstance(low, int | float) and isinstance(high, int | float), "ranges have numbers at both ends"
    if domain.kind == "int":
        return draw.randint(int(low), int(high))
    if domain.kind == "uniform":
        return draw.uniform(low, high)
    return min(high, max(low, math.exp(draw.uniform(math.log(low), math.log(high)))))
