"""A driver that is killed with SIGKILL, again and again: in the end nothing tells that it ever was."""

import random
import re
import time

import pytest
import yaml
from comparing import assert_each_trial_once, assert_same, finish, kill, runs_of, start

from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import LEDGER

MANY = {
    "name": "many",
    "base": {
        "network": {"width": 8},
        "distill": {
            "iterations": 6,
            "matching": {"outer": 1, "inner": 1, "real_batch": 32},
            "probe": {"points": 2, "epochs": 2},
        },
        "train": {"epochs": 40, "networks": 2, "augment": "none", "lr": 0.1},
    },
    "space": {
        "distill.backbone": {"choice": ["real", "dc"]},
        "distill.ipc": {"choice": [1, 2, 3]},
        "distill.mask.ratio": {"uniform": [0.0, 0.5], "when": {"distill.backbone": ["dc"]}},
        "calibrate.mask.ratio": {"uniform": [0.0, 0.9]},
    },
    "objectives": {"val/ece": "min", "val/accuracy": "max"},
}


def handed_out(directory):
    """How many trials the ledger has handed out, once or more often."""
    ledger = directory / LEDGER
    return len(set(re.findall(rb'"number": (\d+), "trial_key"', ledger.read_bytes()))) if ledger.is_file() else 0


@pytest.mark.slow
def test_a_driver_that_is_killed_twice_ends_like_an_undisturbed_one(tiny_study, tmp_path):
    """SIGKILL as soon as a trial is in the ledger: the second, and the third."""
    search = {"searcher": "tpe", "startup": 2, "trials": 4}
    space = {name: MANY["space"][name] for name in ("distill.ipc", "calibrate.mask.ratio")}
    study = tiny_study(space=space, search=search, tracking={})
    undisturbed = run_study(study, output=tmp_path / "whole", debug=True)
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    directory = tmp_path / "killed" / "tiny"
    command = ["run", file, "--output", directory.parent, "--debug"]
    for number in (1, 2):
        process = start(*command)
        while handed_out(directory) <= number:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        kill(process)
        assert load_study(directory).interrupted
        command = ["resume", directory, "--debug"]
    finish(start(*command))
    results = load_study(directory)
    assert results.sessions == 3
    assert_each_trial_once(directory)
    assert_same(results, undisturbed)


def kill_at_random(process, directory, draw, trial, seconds, early):
    """SIGKILL within ``seconds`` after ``trial`` is handed out, or as the next but one is.

    An ``early`` one is killed within ``seconds`` of its start instead, wherever it stands: it spends some of them on
    imports, and on reading what the former one has left.
    """
    patience = draw.uniform(0.0, seconds)
    until = time.monotonic() + patience if early else None
    while until is None or time.monotonic() < until:
        assert process.poll() is None, f"it ended too early: {process.communicate()[1][-2000:]}"
        there = handed_out(directory)
        if there > trial + 1:
            break
        if until is None and there > trial:
            until = time.monotonic() + patience
        time.sleep(0.002)
    kill(process)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("searcher", "mode", "kills", "trials"),
    [("tpe", "debug", 10, 24), ("random", "debug", 4, 12), ("nsga2", "debug", 4, 12), ("tpe", "ray", 4, 12)],
)
def test_random_kills_change_nothing(tmp_path, searcher, mode, kills, trials):
    """Up to ten SIGKILLs, resumed after each: as an undisturbed study of the same seed at concurrency 1."""
    flags, seconds = (["--debug"], 3.0) if mode == "debug" else ([], 8.0)  # a Ray takes some to start
    file = tmp_path / "many.yaml"
    search = {"searcher": searcher, "trials": trials, "startup": trials // 4}
    file.write_text(yaml.safe_dump(MANY | {"search": search}, sort_keys=False))
    finish(start("run", file, "--output", tmp_path / "whole", *flags))
    directory = tmp_path / "killed" / "many"
    draw = random.Random(f"{searcher} {mode}")
    for number in range(kills):
        verb = ["resume", directory] if directory.exists() else ["run", file, "--output", directory.parent]
        early = draw.random() < 1 / 3 and number < kills - 1  # the last one comes far, however slow the machine is
        kill_at_random(start(*verb, *flags), directory, draw, 2 * number, seconds, early)
    assert 2 * (kills - 1) < handed_out(directory) < trials
    finish(start("resume", directory, *flags))
    results = load_study(directory)
    assert [trial.outcome for trial in results.records] == ["complete"] * trials
    assert_each_trial_once(directory)
    runs = runs_of(results)
    assert len(runs) == 1 + trials and {status for status, *_ in runs.values()} == {"FINISHED"}
    assert_same(results, load_study(tmp_path / "whole" / "many"))
