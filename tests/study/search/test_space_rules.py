"""Rules between settings: what `validate` lets pass, the plan and every trial can use, wherever the settings stand."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import ConfigError, StudyConfig
from ddcal.config.checks.study import check_study
from ddcal.config.space import combinations, drawn_point, finite, grid_points, trial_of
from ddcal.pipeline.imported import imports
from ddcal.study.plan.plan import make_plan
from ddcal.study.plan.side_by_side import Machine
from ddcal.study.run.checks import DECIDING

NPZ, IMPORTED = "NPZ", "IMPORTED"
"""Stand for files that the test writes."""

POOL = {
    "data.name": ["digits", "npz", "mnist", "cifar10", "imagenette", "image-folder"],
    "data.root": [None, NPZ],
    "data.resolution": [None, 8, 28, 30, 32],
    "data.zca": [False, True],
    "data.resize": ["crop", "squash"],
    "data.variant": ["full", "320px"],
    "data.validation_fraction": [None, 0.1, 0.3],
    "network.name": ["convnet", "vgg11", "resnet18", "mlp"],
    "network.norm": [None, "instance", "batch", "none"],
    "network.depth": [None, 2, 3],
    "distill.network.norm": [None, "instance", "batch"],
    "train.network.name": [None, "alexnet", "lenet"],
    "distill.backbone": ["real", "full", "dsa", "dm", "mtt", "rtp", "file"],
    "distill.family": ["published", "rethinking"],
    "distill.ipc": [1, 2, 5, 10],
    "distill.clip": [None, 1.0],
    "distill.mask.where": ["both", "inner"],
    "distill.rtp.bases": [None, 0, 4],
    "distill.mtt.experts.epochs": [None, 1, 50],
    "distill.mtt.max_start": [None, 3],
    "distill.file.images": [None, IMPORTED],
    "distill.file.preprocessing": [None, "normalized", "zca", "pixels"],
    "train.holdout": [0.0, 0.3, 0.6],
    "train.focal.gamma": [2.0, 3.0],
    "train.focal.sample_dependent": [False, True],
    "calibrate.method": ["none", "mts", "ts_val", "ts_holdout", "ts_cv", "mts_distilled"],
    "calibrate.t_min": [None, 0.5, 3.0],
    "calibrate.t_max": [None, 0.8, 2.0],
}
RANGES = {
    "distill.ipc": {"int": [1, 10]},
    "data.resolution": {"int": [26, 33]},
    "distill.rtp.bases": {"int": [0, 3]},
    "train.holdout": {"uniform": [0.0, 0.5]},
    "calibrate.t_max": {"loguniform": [0.5, 4.0]},
}
TOGETHER = [
    ["distill.backbone", "distill.rtp.bases", "distill.ipc", "data.name"],
    ["calibrate.method", "train.holdout", "distill.ipc", "distill.backbone"],
    ["data.name", "data.root", "data.resize", "data.variant"],
    ["data.name", "data.resolution", "network.name", "network.norm", "train.network.name"],
    ["distill.backbone", "distill.file.images", "distill.file.preprocessing", "data.zca", "calibrate.method"],
    ["distill.backbone", "distill.mtt.experts.epochs", "distill.mtt.max_start", "distill.family"],
    ["calibrate.method", "calibrate.t_min", "calibrate.t_max", "distill.backbone"],
    list(POOL),
]
"""Names that some rule is about."""


@st.composite
def studies(draw):
    """Small studies out of settings with rules between them, each in the base or searched, some under a condition."""
    names = draw(st.lists(st.sampled_from(draw(st.sampled_from(TOGETHER))), min_size=2, max_size=6, unique=True))
    base, space = {}, {}
    for name in names:
        if draw(st.sampled_from(["space", "space", "base"])) == "base":
            base[name] = draw(st.sampled_from(POOL[name]))
            continue
        if name in RANGES and draw(st.booleans()):
            space[name] = dict(RANGES[name])
        else:
            values = draw(st.lists(st.sampled_from(POOL[name]), min_size=1, max_size=3, unique_by=repr))
            space[name] = {"choice": values}
        others = [other for other in space if other != name and "choice" in space[other]]
        if others and draw(st.booleans()):
            other = draw(st.sampled_from(others))
            allowed = draw(st.lists(st.sampled_from(space[other]["choice"]), min_size=1, max_size=2, unique_by=repr))
            space[name]["when"] = {other: allowed}
    space = dict(draw(st.permutations(list(space.items()))))
    searcher = draw(st.sampled_from(["random", "tpe"]))
    return {
        "name": "rules",
        "base": base,
        "space": space,
        "objectives": {"val/nll": "min"},
        "search": {"searcher": searcher, "trials": 3, "seed": draw(st.integers(0, 9))},
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files that `NPZ` and `IMPORTED` stand for."""
    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8), np.arange(40) % 2
    np.savez(folder / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    np.savez(folder / "set.npz", images=images[:20].transpose(0, 3, 1, 2), labels=np.arange(20) % 10)
    return {NPZ: str(folder / "data.npz"), IMPORTED: str(folder / "set.npz"), "folder": folder}


def with_files(values, files):
    """The same study with the paths of the files in place of their names."""
    if isinstance(values, dict):
        return {key: with_files(value, files) for key, value in values.items()}
    if isinstance(values, list):
        return [with_files(value, files) for value in values]
    return files.get(values, values) if isinstance(values, str) else values


def points_of(study):
    """Points as a searcher draws them, of a grid, and at the bounds."""
    draw = random.Random(1)
    yield from (drawn_point(study, draw) for _ in range(40))
    yield from combinations(study)
    if finite(study):
        yield from itertools.islice(grid_points(study), 500)


def check_promise(values, files):
    study = StudyConfig.model_validate(with_files(values, files))
    problems = check_study(study)
    known = {*(f"space.{name}" for name in study.space), *(f"base.{name}" for name in study.base)}
    for problem in problems:
        assert any(problem.path == key or problem.path.startswith(f"{key}.") for key in known), str(problem)
        assert problem.message
    if problems:
        return
    trials = [trial_of(study, point) for point in points_of(study)]
    asked = {trial_of(study, point).data.model_dump_json() for point in combinations(study, of=DECIDING)}
    assert asked >= {trial.data.model_dump_json() for trial in trials}
    imported = imports(study)
    assert bool(imported) == any(trial.distill.backbone == "file" for trial in trials)
    if not imported and all(trial.data.name in ("digits", "npz") for trial in trials):  # their data is here
        make_plan(study, output=files["folder"], machine=Machine(2, 0))


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(studies())
def test_what_validate_lets_pass_every_trial_and_the_plan_can_use(files, values):
    check_promise(values, files)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(studies())
def test_what_validate_lets_pass_every_trial_and_the_plan_can_use_of_a_thousand(files, values):
    check_promise(values, files)


CONTRADICTING_PARTS = {
    "bases": ({"distill.backbone": "rtp", "distill.ipc": 5}, {"distill.rtp.bases": {"choice": [0, 2]}}),
    "holdout": ({"calibrate.method": "ts_holdout"}, {"train.holdout": {"choice": [0.2, 0.5]}}),
    "method": ({"distill.ipc": 1}, {"distill.ipc": {"choice": [2]}, "calibrate.method": {"choice": ["ts_cv"]}}),
    "root": (
        {},
        {
            "data.root": {"choice": [NPZ], "when": {"data.name": ["npz"]}},
            "data.name": {"choice": ["digits", "npz"]},
        },
    ),
    "file": (
        {
            "distill.backbone": "file",
            "distill.file.images": IMPORTED,
            "distill.file.preprocessing": "pixels",
            "calibrate.method": "ts_holdout",
        },
        {"train.holdout": {"choice": [0.5]}},
    ),
}
"""Bases that are no trial without the searched names beside them."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CONTRADICTING_PARTS)
def test_a_base_that_is_no_trial_by_itself_is_validated_planned_and_run(files, write_study, tmp_path, case):
    base, space = with_files(list(CONTRADICTING_PARTS[case]), files)
    base = {"distill.iterations": 1, "distill.rtp.steps": 2, "distill.probe.points": 1, "train.epochs": 2} | base
    search = {"searcher": "random", "trials": 1}
    study = str(write_study(base=base, space=space, search=search, objectives={"val/nll": "min"}))
    for arguments in (
        ["validate", study, "--data"],
        ["plan", study],
        ["run", study, "--debug", "--output", str(tmp_path)],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)


def test_a_point_that_contradicts_itself_is_named_and_no_traceback(tiny_study):
    """The last net: of a space too large to be listed, validate tries a part alone."""
    study = tiny_study({"train.holdout": 0.5}, space={"distill.ipc": {"int": [1, 2]}})
    with pytest.raises(ConfigError, match=r"space: distill\.ipc=1 is not allowed: train\.holdout 0\.5 leaves no image"):
        trial_of(study, {"distill.ipc": 1})
