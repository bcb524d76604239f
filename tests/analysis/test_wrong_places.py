"""A folder where a picture is to go, and a file where pictures are to go, are one sentence and exit code 2."""

import pytest
from typer.testing import CliRunner

from ddcal.cli import app


@pytest.mark.parametrize(
    ("verb", "place", "said"),
    [
        ("pareto", "folder", "is a folder: give a file"),
        ("compare", "folder", "is a folder: give a file"),
        ("plots", "file", "is a file: give a folder"),
        ("plots", "file/below", "lies below a file: give a folder"),
    ],
)
def test_a_place_of_the_wrong_kind_is_one_sentence(made_study, tmp_path, verb, place, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    directory = made_study("first", ("complete", "complete", "failed")).directory
    result = CliRunner().invoke(app, [verb, str(directory), "--to", str(tmp_path / place)])
    assert result.exit_code == 2 and result.output == f"{tmp_path / place} {said}\n", result.output
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "folder").iterdir())
