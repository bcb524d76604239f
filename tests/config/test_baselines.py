"""Enqueued points, and what the entry ``paper`` stands for."""

import pytest

from ddcal.config import StudyConfig
from ddcal.config.baselines import check_paper, enqueued_points

BACKBONE = {"choice": ["real", "dc", "dsa"]}


def study(space, enqueue=("paper",), base=None):
    values = {"name": "x", "objectives": {"val/nll": "min"}, "space": space, "search": {"enqueue": list(enqueue)}}
    return StudyConfig.model_validate(values | {"base": base or {}})


@pytest.mark.parametrize(
    ("space", "base", "points"),
    [
        ({"calibrate.mask.ratio": {"uniform": [0.0, 0.95]}}, {}, [{"calibrate.mask.ratio": 0.9}]),
        (
            {"distill.backbone": BACKBONE, "train.epochs": {"int": [100, 2000]}},
            {},
            [
                {"distill.backbone": "real", "train.epochs": 300},
                {"distill.backbone": "dc", "train.epochs": 300},
                {"distill.backbone": "dsa", "train.epochs": 1000},
            ],
        ),
        (
            {"distill.mask.ratio": {"choice": [0.0, 0.1], "when": {"distill.backbone": ["dc", "dsa"]}}}
            | {"distill.backbone": BACKBONE},
            {},
            [
                {"distill.backbone": "real"},
                {"distill.backbone": "dc", "distill.mask.ratio": 0.1},
                {"distill.backbone": "dsa", "distill.mask.ratio": 0.1},
            ],
        ),
        (
            {"distill.matching.inner": {"int": [1, 50]}, "distill.ipc": {"choice": [1, 50]}},
            {"distill": {"backbone": "dc"}},
            [{"distill.matching.inner": 10, "distill.ipc": 50}],
        ),
        ({"distill.matching.inner": {"int": [1, 50]}}, {"distill.ipc": 1}, [{"distill.matching.inner": 1}]),
        ({"data.zca": {"choice": [True, False]}}, {"data.name": "cifar10"}, [{"data.zca": True}]),
        (
            {"seed": {"choice": [0, 1]}, "network.width": {"int": [8, 128]}, "train.lr": {"uniform": [0.0, 1.0]}},
            {},
            [{"network.width": 128, "train.lr": 0.01}],
        ),
        ({"distill.iterations": {"int": [1, 2000]}, "train.lr": {"choice": [0.01]}}, {"distill.backbone": "real"}, 1),
    ],
)
def test_paper_stands_for_the_published_values_of_the_space(space, base, points):
    config = study(space, base=base)
    assert check_paper(config, 0, ()) == []
    assert enqueued_points(config) == (points if points != 1 else [{"train.lr": 0.01}])


@pytest.mark.parametrize(
    ("space", "fragments"),
    [
        ({"distill.iterations": {"int": [10, 100]}}, ["published distill.iterations of dsa is 1000", "from 10 to 100"]),
        ({"network.width": {"choice": [8, 16]}}, ["network.width of dsa is 128", "must be one of 8, 16"]),
        ({"distill.ipc": {"choice": [2, 3]}}, ["distill.ipc of dsa is 10"]),
        ({"seed": {"choice": [0, 1]}}, ["no name of the space has a published value"]),
    ],
)
def test_a_published_value_outside_the_space_is_named(space, fragments):
    (problem,) = check_paper(study(space), 0, ())
    assert problem.path == "search.enqueue.0" and problem.value == "'paper'"
    assert all(fragment in problem.message for fragment in fragments)


def test_a_whole_point_is_there_once_and_an_open_one_as_often_as_listed():
    space = {
        "distill.backbone": {"choice": ["real", "dc"]},
        "distill.mask.ratio": {"choice": [0.0, 0.1], "when": {"distill.backbone": ["dc"]}},
    }
    real, dc = {"distill.backbone": "real"}, {"distill.backbone": "dc", "distill.mask.ratio": 0.1}
    also_real = real | {"distill.mask.ratio": 0.0}  # inactive there
    opened = {"distill.backbone": "dc"}
    config = study(space, enqueue=[dc, opened, real, "paper", also_real, opened, dc])
    assert enqueued_points(config) == [dc, opened, real, opened]


def test_a_value_is_the_spaces_own_however_it_is_written():
    space = {"distill.dm.image_lr": [1, 10], "distill.iterations": {"int": [1, 2000]}, "train.lr": {"uniform": [0, 1]}}
    given = {"distill.dm.image_lr": 10.0, "distill.iterations": 5.0, "train.lr": 1}
    config = study(space, ["paper", given], {"distill.backbone": "dm"})
    published, own = enqueued_points(config)
    assert repr(published["distill.dm.image_lr"]) == "1" and repr(own) == repr(
        given
        | {
            "distill.dm.image_lr": 10,
            "distill.iterations": 5,
        }
    )
    whole = study({"distill.dm.image_lr": [1, 10]}, ["paper", {"distill.dm.image_lr": 1}], {"distill.backbone": "dm"})
    assert len(enqueued_points(whole)) == 1
