"""The grid: its points against a brute-force product, its size, and that neither needs the whole of it."""

import itertools
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddcal.config import StudyConfig
from ddcal.config.space import grid_points, grid_size

METHOD = {"choice": ["none", "mts"]}
RATIO = {"choice": [0.1, 0.2], "when": {"calibrate.method": ["mts"]}}


def study(space):
    return StudyConfig.model_validate(
        {"name": "grid", "objectives": {"val/nll": "min"}, "space": space, "search": {"searcher": "grid"}}
    )


def brute_force(config):
    """All combinations, reduced to their active names, in any order."""
    names = list(config.space)
    values = [d.corners if d.kind == "choice" else range(d.corners[0], d.corners[1] + 1) for d in config.space.values()]
    points = set()
    for combination in itertools.product(*values):
        point, before = dict(zip(names, combination, strict=True)), None
        while point != before:  # until no name is inactive any more
            before = dict(point)
            point = {name: value for name, value in point.items() if config.active(point, name)}
        points.add(tuple(sorted(point.items())))
    return points


@pytest.mark.parametrize(
    ("space", "points"),
    [
        ({}, [{}]),
        ({"distill.ipc": {"choice": [5, 1]}}, [{"distill.ipc": 5}, {"distill.ipc": 1}]),
        ({"distill.ipc": {"int": [2, 4]}}, [{"distill.ipc": value} for value in (2, 3, 4)]),
        (
            {"distill.ipc": {"int": [1, 2]}, "train.lr": {"choice": [0.1, 0.2]}},
            [{"distill.ipc": ipc, "train.lr": lr} for ipc in (1, 2) for lr in (0.1, 0.2)],
        ),
        (
            {"calibrate.mask.ratio": RATIO, "calibrate.method": METHOD},
            [
                {"calibrate.method": "none"},
                {"calibrate.method": "mts", "calibrate.mask.ratio": 0.1},
                {"calibrate.method": "mts", "calibrate.mask.ratio": 0.2},
            ],
        ),
        (
            {"calibrate.method": METHOD, "calibrate.mask.ratio": RATIO, "distill.ipc": {"choice": [1, 2]}},
            [
                {"calibrate.method": "none", "distill.ipc": 1},
                {"calibrate.method": "none", "distill.ipc": 2},
                *(
                    {"calibrate.method": "mts", "calibrate.mask.ratio": ratio, "distill.ipc": ipc}
                    for ratio in (0.1, 0.2)
                    for ipc in (1, 2)
                ),
            ],
        ),
    ],
)
def test_points_in_the_order_of_the_file(space, points):
    assert list(grid_points(study(space))) == points
    assert grid_size(study(space)) == len(points)


NAMES = ["distill.ipc", "train.epochs", "calibrate.draws", "evaluate.bins"]


@st.composite
def spaces(draw):
    """Whole numbers under conditions on the names before them."""
    space = {}
    for index, name in enumerate(NAMES[: draw(st.integers(1, 4))]):
        low = draw(st.integers(1, 3))
        high = low + draw(st.integers(1, 3))
        kind = draw(st.sampled_from(["int", "choice"]))
        space[name] = {kind: [low, high] if kind == "int" else list(range(low, high + 1))}
        others = draw(st.lists(st.sampled_from(NAMES[:index]), unique=True, max_size=2)) if index else []
        space[name]["when"] = {
            other: draw(st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True)) for other in others
        }
    return dict(draw(st.permutations(list(space.items()))))


@given(spaces())
def test_points_are_those_of_the_product_each_once(space):
    config = study(space)
    points = [tuple(sorted(point.items())) for point in grid_points(config)]
    assert len(points) == len(set(points)) == grid_size(config)
    assert set(points) == brute_force(config)


def test_a_huge_grid_is_counted_and_begun_without_going_through_it():
    huge = {name: {"int": [1, 10**9]} for name in NAMES[:3]}
    huge["evaluate.bins"] = {"int": [1, 1000], "when": {"distill.ipc": [1, 5]}}
    config = study(huge)
    assert grid_size(config) == 10**18 * (10**9 - 2) + 2 * 1000 * 10**18
    first, second = islice(grid_points(config), 2)
    assert first == dict.fromkeys(huge, 1) and second == {**first, "evaluate.bins": 2}
