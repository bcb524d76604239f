"""All that can happen to a study, to one study: in the end nothing tells that any of it did."""

import contextlib
import random
import time

import pytest
import yaml
from comparing import assert_each_trial_once, assert_same, finish, kill, runs_of, start
from disks import small_disk
from nodes import kill_session
from test_kills import MANY, handed_out
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.study import load_study
from ddcal.study.record.verify import verify_study
from ddcal.study.search.search import JOURNAL

TRIALS, KILLS = 24, 10
MOVED_AFTER, CUT_AFTER, FULL_AFTER = 2, 4, 6
"""After which kill the output root is moved, the journal is cut, the disk is full."""

BASE = {
    "network": {"width": 8},
    "distill": {
        "iterations": 3,
        "matching": {"outer": 1, "inner": 1, "real_batch": 16},
        "probe": {"points": 2, "epochs": 1},
    },
    "train": {"epochs": 10, "networks": 1, "augment": "none", "lr": 0.1},
}
STUDY = MANY | {"name": "all", "base": BASE, "search": {"searcher": "tpe", "trials": TRIALS, "startup": 6}}


@contextlib.contextmanager
def disk_to_fill(folder):
    """A small disk at ``folder``; where none may be mounted, None: then it is never full, and all else is the same."""
    stack = contextlib.ExitStack()
    disk = None
    with contextlib.suppress(pytest.skip.Exception):
        disk = stack.enter_context(small_disk(folder, "96m"))
    with stack:
        yield disk


def wait_for(process, condition):
    """Return as soon as the condition holds of a process that must still run by then."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.communicate()[1][-2000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_all(process):
    """SIGKILL to a driver and to the Ray that it has started."""
    kill_session(process.pid)
    kill(process)


def kill_in(process, directory, trial, draw):
    """SIGKILL at a random moment within the two trials after ``trial`` is handed out; one in three while it starts."""
    if handed_out(directory) > trial and draw.random() < 1 / 3:
        time.sleep(draw.uniform(0.0, 4.0))
    else:
        wait_for(process, lambda: handed_out(directory) > trial)
        until = time.monotonic() + draw.uniform(0.0, 1.0)
        wait_for(process, lambda: time.monotonic() > until or handed_out(directory) > trial + 1)
    kill_all(process)


def cut(path):
    """Cut a file within a line, as a power cut does."""
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    kept = sum(map(len, lines[: len(lines) // 2])) + len(lines[len(lines) // 2]) // 2
    path.write_bytes(content[:kept])


@pytest.mark.slow
def test_a_study_to_which_everything_happens_ends_like_an_undisturbed_one(tmp_path):
    """Killed ten times (with its Ray), moved, its journal cut, its disk full: 24 trials, equal in every number."""
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    finish(start("run", file, "--output", tmp_path / "whole", "--debug"))
    expected = load_study(tmp_path / "whole" / "all")
    draw = random.Random("all at once")
    with disk_to_fill(tmp_path / "disk") as disk:
        first = tmp_path / "disk" / "runs"
        directory = first / "all"
        for number in range(KILLS):
            verb = ["resume", directory] if directory.exists() else ["run", file, "--output", first]
            flags = [] if number % 3 == 1 else ["--debug"]
            kill_in(start(*verb, *flags), directory, 2 * number, draw)
            if number == MOVED_AFTER:
                (tmp_path / "disk" / "else where").mkdir()
                directory = first.rename(tmp_path / "disk" / "else where" / "runs") / "all"
            elif number == CUT_AFTER:
                cut(directory / JOURNAL)
            elif number == FULL_AFTER and disk is not None:
                fill_and_free(disk, directory)
        assert KILLS < handed_out(directory) < TRIALS
        finish(start("resume", directory))
        results = load_study(directory)
        assert [trial.outcome for trial in results.records] == ["complete"] * TRIALS and results.ending
        assert_each_trial_once(directory)
        assert_same(results, expected)
        runs = runs_of(results)
        assert len(runs) == 1 + TRIALS and {status for status, *_ in runs.values()} == {"FINISHED"}
        assert not first.exists(), "nothing is made where it was"
        assert [part for part in verify_study(directory) if not part.whole] == []
        entries = sorted(path for path in (directory.parent / "store").glob("*/*/manifest.json"))
        assert CliRunner().invoke(app, ["store", "prune", str(directory.parent)]).exit_code == 0
        assert sorted((directory.parent / "store").glob("*/*/manifest.json")) == entries


def fill_and_free(disk, directory):
    """Go on with the study until its disk is full: it stops by itself and says so, and no trial has failed."""
    there = handed_out(directory)
    process = start("resume", directory, "--debug")
    try:
        wait_for(process, lambda: handed_out(directory) > there)
        disk.fill()
        _, error = process.communicate(timeout=300)
    finally:
        kill_all(process)
    disk.free()
    assert process.returncode == 1 and b"No space left on device" in error, error[-2000:]
    assert {trial.outcome for trial in load_study(directory).records} <= {"complete", None}
