"""A process is killed in the middle of a stage; whoever needs the stage next goes on and ends on the same bits."""

import logging
import os
import subprocess
import sys

import pytest

from ddcal.pipeline import TrialRunner, open_store

CHILD = """
import sys
from ddcal.config import TrialConfig
from ddcal.pipeline import Environment, TrialRunner, open_store
config = TrialConfig.model_validate_json(sys.argv[2])
runner = TrialRunner(config, open_store(sys.argv[1]), Environment("cpu", 1), checkpoint_seconds=0.0)
while not runner.done:
    sys.stdin.readline()  # one advance a line, so that the parent decides where the end comes
    advance = runner.advance()
    print(advance.stage, advance.fraction if advance.stage == "experts" else advance.progress, flush=True)
"""


def run_and_kill(config, root, stage, progress):
    """Kill a child with SIGKILL as it works on what follows ``progress`` of the trial, or of the experts."""
    command = [sys.executable, "-c", CHILD, str(root), config.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        reached = ("", 0.0)
        while reached[0] != stage or reached[1] < progress:
            child.stdin.write("\n")
            child.stdin.flush()
            name, value = child.stdout.readline().split()
            reached = (name, float(value))
        child.stdin.write("\n")
        child.stdin.flush()
        child.kill()
        child.wait(60)
    assert child.returncode == -9


@pytest.fixture(scope="module")
def settings():
    return {
        "distill__backbone": "dsa",
        "distill__iterations": 20,
        "distill__probe": {"points": 2, "epochs": 2},
        "train__epochs": 40,
    }


def finish(config, root, environment, datasets):
    runner, points = TrialRunner(config, open_store(root), environment, datasets=datasets), []
    while not runner.done:
        points.append(runner.advance().point)
    return runner, [point for point in points if point is not None]


@pytest.fixture(scope="module")
def undisturbed(settings, make_trial, environment, datasets, tmp_path_factory):
    return finish(make_trial(**settings), tmp_path_factory.mktemp("undisturbed"), environment, datasets)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "progress"), [("distill", 0.3), ("train", 0.75)])
def test_a_killed_trial_goes_on_to_the_same_bits(
    stage, progress, settings, undisturbed, make_trial, environment, datasets, tmp_path, caplog
):
    config = make_trial(**settings)
    run_and_kill(config, tmp_path, stage, progress)
    with caplog.at_level(logging.INFO, "ddcal"):
        runner, points = finish(config, tmp_path, environment, datasets)
    (went_on,) = [r.getMessage() for r in caplog.records if "goes on from its checkpoint" in r.getMessage()]
    assert went_on.startswith(f"{stage}: ")
    low, high = {"distill": (0.0, 0.5), "train": (0.5, 0.9)}[stage]
    share = int(went_on.split()[-2])
    assert 100 * (progress - low) / (high - low) - 1 <= share < 100
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []

    expected, expected_points = undisturbed
    assert runner.metrics == expected.metrics
    assert points == expected_points
    for name in ("distill", "train", "calibrate"):
        assert runner.entries[name].files == expected.entries[name].files
    assert list((tmp_path / "partial").iterdir()) == []


MTT = {
    "distill__backbone": "mtt",
    "distill__mtt": {"student_steps": 2, "max_start": 7, "expert_epochs": 2, "experts": {"count": 3, "momentum": 0.9}},
}


@pytest.mark.slow
def test_killed_experts_go_on_to_the_same_bits(make_trial, environment, datasets, tmp_path, caplog):
    """Eight epochs an expert, killed in the second one: the first is in the store, of the second its checkpoint."""
    config = make_trial(**MTT)
    expected, expected_points = finish(config, tmp_path / "undisturbed", environment, datasets)
    root = tmp_path / "killed"
    run_and_kill(config, root, "experts", 0.5)
    assert len(list((root / "experts").iterdir())) == 1
    with caplog.at_level(logging.INFO, "ddcal"):
        runner, points = finish(config, root, environment, datasets)
    said = [record.getMessage() for record in caplog.records]
    (went_on,) = [text for text in said if "goes on from its checkpoint" in text]
    assert went_on.startswith("experts: ") and 49 <= int(went_on.split()[-2]) < 67
    assert "experts: 2 trained by this process, 1 were in the store" in said
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert (runner.metrics, points) == (expected.metrics, expected_points)
    for name in ("experts", "distill", "train", "calibrate"):
        assert runner.entries[name].files == expected.entries[name].files
    assert list((root / "partial").iterdir()) == []
