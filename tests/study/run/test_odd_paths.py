"""Places whose paths are not UTF-8: refused before the first trial, as no JSON could name them."""

import os
import shutil

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import ResourceError
from ddcal.study import load_study, run_study
from ddcal.study.run.runner import resume_study

ODD = os.fsdecode(b"bad\xe9")


def refused(verb):
    result = CliRunner().invoke(app, [str(part) for part in [*verb, "--debug"]])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.exception
    return " ".join(result.output.split())


def test_an_output_root_that_is_not_utf_8(write_study, tmp_path):
    said = refused(["run", write_study(), "--output", tmp_path / ODD])
    assert "storage.output: the path " in said and "bad\\udce9 is not UTF-8: rename the folder, or take another" in said
    assert not (tmp_path / ODD).exists()


@pytest.mark.parametrize("key", ["output", "store", "cache"])
def test_a_working_folder_that_is_not_utf_8(key, tiny_study, tmp_path, monkeypatch):
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    study = tiny_study(storage={key: "here"})
    with pytest.raises(ResourceError, match=rf"storage\.{key}: the path .*bad\\udce9/here is not UTF-8"):
        run_study(study, output=None if key == "output" else tmp_path / "runs", debug=True)
    assert not list((tmp_path / ODD).iterdir()) and not (tmp_path / "runs").exists()


def test_a_study_that_was_moved_to_such_a_place_goes_on_only_elsewhere(tiny_study, tmp_path):
    run_study(tiny_study(), output=tmp_path / "runs", debug=True)
    shutil.move(tmp_path / "runs", tmp_path / ODD)
    said = refused(["resume", tmp_path / ODD / "tiny", "--trials", 3])
    assert "storage.output: the path " in said and "is not UTF-8" in said
    shutil.move(tmp_path / ODD, tmp_path / "back")
    assert len(load_study(tmp_path / "back" / "tiny").records) == 2
    results = resume_study(tmp_path / "back" / "tiny", trials=3, debug=True)
    assert [trial.outcome for trial in results.records] == ["complete"] * 3


def test_an_output_root_that_is_a_link_to_nowhere(write_study, tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "not mounted")
    said = refused(["run", write_study(), "--output", tmp_path / "runs"])
    assert "storage.output: " in said and "is a link to " in said and "not mounted, which is not there" in said
