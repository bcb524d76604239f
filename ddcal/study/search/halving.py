"""Successive halving on several objectives: ranks, crowding and the decision of one rung, as pure functions.

Schmucker, Donini, Zafar, Salinas, Archambeau 2021, "Multi-objective Asynchronous Successive Halving" (arXiv
2106.12639): asynchronous halving (Li et al. 2018) in which trials are ordered by non-dominated rank. Within a rank the
order is that of the crowding distance (Deb et al. 2002), which unlike an epsilon-net depends on no starting point.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

Values = NDArray[numpy.float64]


def nondominated_ranks(values: Values) -> NDArray[numpy.int64]:
    """Return the rank of every point: 0 for those that no other dominates, 1 for those that only rank 0 does…

    Args:
        values: (n, objectives), lower is better. A point with a value that is not finite is dominated by every point
            whose values all are.
    """
    values = _finite(values)
    if values.shape[1] == 2:
        return _ranks_of_two(values)
    below: NDArray[numpy.bool_] = numpy.all(values[:, None] <= values[None], axis=2)
    dominates = below & ~below.T
    left, ranks = dominates.sum(axis=0), numpy.zeros(len(values), dtype=numpy.int64)
    rank, remaining = 0, numpy.ones(len(values), dtype=bool)
    while remaining.any():
        front = remaining & (left == 0)
        ranks[front] = rank
        left = left - dominates[front].sum(axis=0)
        remaining &= ~front
        rank += 1
    return ranks


def _ranks_of_two(values: Values) -> NDArray[numpy.int64]:
    """Return the ranks for two objectives, without comparing all pairs.

    Taken by the first value, then the second, a point comes after all that dominate it. A rank has one of those exactly
    if its lowest second value so far is not above the point's, and those lowest values grow with the rank (Jensen 2003,
    "Reducing the run-time complexity of multiobjective EAs").

    Args:
        values: (n, 2), lower is better, no NaN.
    """
    first, second = values.T
    ranks = numpy.zeros(len(values), dtype=numpy.int64)
    lowest: list[float] = []
    rank, before = 0, (numpy.nan, numpy.nan)
    for index in numpy.lexsort((second, first)).tolist():
        point = float(first[index]), float(second[index])
        if point != before:  # an equal point is not dominated
            rank = bisect_right(lowest, point[1])
            lowest[rank : rank + 1] = [point[1]]
        ranks[index], before = rank, point
    return ranks


def crowding_distances(values: Values) -> Values:
    """Return for every point of one front how far its neighbours are, summed over objectives; infinite at the ends.

    Args:
        values: (n, objectives); each objective is divided by its range over the front. Equal points are equally far.
    """
    values = _finite(values)
    distances = numpy.zeros(len(values))
    for column in values.T:
        distinct = numpy.unique(column)
        low, high = distinct[0], distinct[-1]
        if low == high or not numpy.isfinite(high - low):
            continue
        place = numpy.searchsorted(distinct, column)
        inner = (place > 0) & (place < len(distinct) - 1)
        distances[~inner] = numpy.inf
        distances[inner] += (distinct[place[inner] + 1] - distinct[place[inner] - 1]) / (high - low)
    return distances


def survives(values: Sequence[Sequence[float]], reduction: float) -> bool:
    """Return whether the last of the trials at a rung goes on: whether fewer than n / reduction are better.

    A trial is better if its rank is lower, or if the rank is the same and its crowding distance larger; a tie is never
    stopped. One with a value that is not finite goes on only if there is none that has finite ones.

    Args:
        values: (n, objectives), lower is better, of every trial that has reached the rung, the one in question last.
        reduction: One in so many survives.
    """
    points = numpy.asarray(values, dtype=numpy.float64)
    ranks = nondominated_ranks(points)
    mates = ranks == ranks[-1]
    crowding = crowding_distances(points[mates])
    better = int((ranks < ranks[-1]).sum()) + int((crowding > crowding[-1]).sum())
    return better == 0 or (bool(numpy.isfinite(points[-1]).all()) and better < len(points) / reduction)


def rungs(grace: float, reduction: float) -> tuple[float, ...]:
    """Return the fractions of a stage at which trials are compared: grace, grace · reduction…, the last at most 1."""
    found = [grace]
    while found[-1] * reduction <= 1.0 + 1e-9:
        found.append(found[-1] * reduction)
    return tuple(found)


def _finite(values: Values) -> Values:
    """Return the values with every point that has one that is not finite at the far end in all objectives."""
    return numpy.where(numpy.isfinite(values).all(axis=1, keepdims=True), values, numpy.inf)
