"""The pure parts of multi-objective halving, against tables and a brute-force oracle."""

import math
import tracemalloc

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddcal.study.search.halving import crowding_distances, nondominated_ranks, rungs, survives

NAN, INF = math.nan, math.inf


def brute_force_ranks(points):
    """Peel fronts off by comparing every pair, from the definition."""

    def dominates(a, b):
        if not all(map(math.isfinite, b)):
            return all(map(math.isfinite, a))
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    ranks, left, rank = [0] * len(points), set(range(len(points))), 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in front:
            ranks[i] = rank
        left, rank = left - front, rank + 1
    return ranks


values = st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1), st.sampled_from([NAN, INF, -0.0]))


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[values] * n), min_size=1, max_size=12)))
def test_ranks_are_those_of_the_definition(points):
    assert nondominated_ranks(numpy.array(points)).tolist() == brute_force_ranks(points)


@settings(deadline=None)
@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[values] * n), min_size=1, max_size=12)))
def test_who_goes_on_is_who_the_definition_says(points):
    """Fewer than n / reduction are better: of a lower rank, or less crowded in the same one."""
    ranks = brute_force_ranks(points)
    mates = [place for place, rank in enumerate(ranks) if rank == ranks[-1]]
    *crowding, own = crowding_distances(numpy.array([points[place] for place in mates]))
    better = sum(rank < ranks[-1] for rank in ranks) + sum(one > own for one in crowding)
    finite = all(map(math.isfinite, points[-1]))
    for reduction in (1.5, 2.0, 4.0):
        assert survives(points, reduction) == (better == 0 or (finite and better < len(points) / reduction))


def test_two_objectives_of_many_trials_are_not_compared_pair_by_pair():
    """Ranks of many points, known by their making, in memory that grows with their number alone."""
    rank, place = numpy.divmod(numpy.random.default_rng(0).permutation(3000), 50)
    points = numpy.stack([100.0 * rank + place, 100.0 * rank - place], axis=1)  # fronts one behind the other
    tracemalloc.start()
    found = nondominated_ranks(points)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == rank.tolist() and peak < 1000 * len(points)


@pytest.mark.parametrize(
    ("points", "ranks"),
    [
        ([(1, 1)], [0]),
        ([(1, 2), (2, 1)], [0, 0]),
        ([(1, 1), (1, 1), (2, 1)], [0, 0, 1]),
        ([(3, 3), (2, 2), (1, 1)], [2, 1, 0]),
        ([(0, NAN), (9, 9)], [1, 0]),
        ([(NAN, NAN), (INF, 0)], [0, 0]),
    ],
)
def test_ranks_of_small_sets(points, ranks):
    assert nondominated_ranks(numpy.array(points, dtype=float)).tolist() == ranks


@pytest.mark.parametrize(
    ("points", "distances"),
    [
        ([(1, 1)], [0]),
        ([(0, 4), (4, 0)], [INF, INF]),
        ([(0, 4), (1, 2), (4, 0)], [INF, 2.0, INF]),
        ([(0, 8), (1, 4), (2, 2), (8, 0)], [INF, 2 / 8 + 6 / 8, 7 / 8 + 4 / 8, INF]),
        ([(0, 4), (1, 2), (1, 2), (4, 0)], [INF, 2.0, 2.0, INF]),
        ([(NAN, 1), (1, INF)], [0, 0]),
    ],
)
def test_crowding(points, distances):
    assert crowding_distances(numpy.array(points, dtype=float)).tolist() == distances


@pytest.mark.parametrize(
    ("others", "last", "reduction", "goes_on"),
    [
        ([], (9, 9), 2, True),
        ([(1, 1)], (2, 2), 2, False),
        ([(1, 1)], (1, 1), 2, True),
        ([(1, 2)], (2, 1), 2, True),
        ([(2, 2)], (1, 1), 2, True),
        ([(1, 1)], (2, 2), 1.5, True),  # of two, 1.33 go on
        ([(1, 1), (5, 5), (6, 6)], (4, 4), 2, True),
        ([(1, 1), (2, 2), (6, 6)], (4, 4), 2, False),
        ([(0, 8), (8, 0), (2, 2)], (2.1, 1.9), 2, False),  # on the front, but nearest to its neighbours
        ([(0, 8), (8, 0), (7, 1)], (2, 2), 2, False),
        ([(0, 8), (8, 0), (7.5, 0.9)], (4, 3), 1.5, True),
        ([(1, 1), (2, 2)], (NAN, 0), 2, False),
        ([(NAN, NAN), (1, 1)], (NAN, 0), 2, False),
        ([(NAN, NAN)], (NAN, 0), 2, True),
        ([(NAN, 0)], (1, 1), 2, True),
    ],
)
def test_who_goes_on(others, last, reduction, goes_on):
    assert survives([*others, last], reduction) is goes_on


@pytest.mark.parametrize(
    ("grace", "reduction", "expected"),
    [(0.25, 2, (0.25, 0.5, 1.0)), (0.25, 4, (0.25, 1.0)), (0.3, 2, (0.3, 0.6)), (0.6, 2, (0.6,))],
)
def test_rungs(grace, reduction, expected):
    assert rungs(grace, reduction) == expected
