"""The grid of a space: every combination of its choices and whole numbers, in the file's order, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ddcal.config.study import Domain, StudyConfig

_OTHER = object()
"""Stands for all values of a name that no condition mentions."""


def grid_points(study: StudyConfig) -> Iterator[dict[str, Any]]:
    """Yield the points of a grid one by one: dotted name → value, inactive names left out.

    The first name of the file varies slowest, the last one fastest; a name comes after those that its ``when`` looks
    at. Nothing is kept, so a grid may be as large as it likes.

    Args:
        study: Whose space has choices and ints alone.
    """
    order = _order(study.space)

    def complete(index: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if index == len(order):
            yield values
        elif study.active(values, order[index]):
            for value in _values(study.space[order[index]]):
                yield from complete(index + 1, values | {order[index]: value})
        else:
            yield from complete(index + 1, values)

    yield from complete(0, {})


def grid_size(study: StudyConfig) -> int:
    """Return how many points `grid_points` yields, without going through them.

    Names are taken in order; what is remembered of those before is only what a later condition looks at.
    """
    order = _order(study.space)
    last_look = {other: index for index, name in enumerate(order) for other in study.space[name].when}
    counts: Counter[tuple[tuple[str, Any], ...]] = Counter({(): 1})
    for index, name in enumerate(order):
        following: Counter[tuple[tuple[str, Any], ...]] = Counter()
        for remembered, count in counts.items():
            kept = tuple(item for item in remembered if last_look[item[0]] > index)
            if not study.active(dict(remembered), name):
                following[kept] += count
            elif name in last_look:
                for value, times in _kinds(study.space, name).items():
                    following[*kept, (name, value)] += count * times
            else:
                following[kept] += count * len(_values(study.space[name]))
        counts = following
    return counts.total()


def _order(space: Mapping[str, Domain]) -> list[str]:
    """Return the names in the file's order, but each after those that its condition looks at."""
    order: list[str] = []
    while len(order) < len(space):
        free = (n for n, d in space.items() if n not in order and all(o in order for o in d.when if o in space))
        order.append(next(free))
    return order


def _values(domain: Domain) -> tuple[Any, ...] | range:
    if domain.kind == "choice":
        return domain.corners
    low, high = domain.corners
    assert isinstance(low, int) and isinstance(high, int), "only choices and ints are counted"
    return range(low, high + 1)


def _kinds(space: Mapping[str, Domain], name: str) -> dict[Any, int]:
    """Return the values of a name that conditions tell apart, and how many values each of them stands for."""
    values = _values(space[name])
    if not isinstance(values, range):
        return dict.fromkeys(values, 1)
    mentioned = {value for domain in space.values() for value in domain.when.get(name, ()) if value in values}
    others = len(values) - len(mentioned)
    return dict.fromkeys(mentioned, 1) | ({_OTHER: others} if others else {})
