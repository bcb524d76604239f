"""A study in a folder that may be read but not written: its page, its pictures and its front go elsewhere."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from matplotlib import get_data_path
from typer.testing import CliRunner

import ddcal
from ddcal.cli import app
from ddcal.study.record.ledger import LEDGER

OTHER = 54321
OUTCOMES = ("complete", "complete", "failed")


def may_be_read(path):
    """Whether every user may read a file."""
    path = Path(path).resolve()
    return path.stat().st_mode & 0o004 and all(folder.stat().st_mode & 0o001 for folder in path.parents)


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(
        not (may_be_read(ddcal.__file__) and may_be_read(get_data_path() + "/matplotlibrc")),
        reason="others may not read this installation",
    ),
]


def said_by(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.output


def as_another(*commands):
    """The exit code and the output of each command, run by another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            os.write(writing, json.dumps([said_by(*command) for command in commands]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return json.loads(said)


@pytest.fixture
def places(made_study):
    """The folder of a study that others may read, with nothing in it but its ledger, and a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:  # into which others may look
        directory, own = made_study("first", OUTCOMES, root=Path(folder) / "runs").directory, Path(folder) / "own"
        assert said_by("watch", directory, "--output", Path(folder) / "warm")[0] == 0  # imports what it needs
        for path in directory.iterdir():
            if path.name != LEDGER:
                path.unlink()
        for path in (Path(folder), directory.parent, directory):
            path.chmod(0o755)
        (directory / LEDGER).chmod(0o644)
        own.mkdir()
        os.chown(own, OTHER, OTHER)
        yield directory, own


@pytest.mark.slow
def test_a_study_of_somebody_else_is_shown_elsewhere(places):
    directory, own = places
    said = as_another(
        ["report", "study", directory, "--output", own / "page"],
        ["watch", directory, "--output", own / "watched"],
        ["pareto", directory, "--to", own / "front.png"],
        ["pareto", directory, "--json"],
    )
    assert [code for code, _ in said] == [0] * len(said), said
    for page in ("page", "watched"):
        assert "Every trial by number" in (own / page / "index.html").read_text()
    assert (own / "front.png").is_file()
    assert str(own / "front.png") in said[2][1] and "pareto.csv" not in said[2][1]
    assert "no new picture; --to PNG" in said[3][1]
    assert [path.name for path in directory.iterdir()] == [LEDGER]


@pytest.mark.slow
def test_without_a_folder_of_their_own_others_are_told_the_option(places):
    directory, _ = places
    said = as_another(["report", "study", directory], ["watch", directory], ["plots", directory])
    for (code, output), option in zip(said, ("--output", "--output", "--to"), strict=True):
        assert code == 2 and f"Permission denied: give a folder of your own with {option}" in output, output
