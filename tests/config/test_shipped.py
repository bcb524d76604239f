import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import read_study
from ddcal.config.shipped import shipped_studies, study_file
from ddcal.errors import BadInput

ROOT = Path(__file__).parents[2]


def test_every_study_file_is_a_shipped_study_with_a_sentence():
    files = {path for path in (ROOT / "studies").rglob("*.yaml") if path.parent.name != "cluster"}
    studies = shipped_studies()
    beside = {"paper/scales.yaml", "scoreboard/scales.yaml", "scoreboard/sets.yaml"}
    assert {study.path for study in studies} == files - {ROOT / "studies" / name for name in beside}
    for study in studies:
        assert 20 < len(study.about) < 200 and study.about[-1] in ".?" and "\n" not in study.about


def test_a_name_means_a_shipped_study_where_there_is_no_such_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_study(study_file(Path("paper/losses"))).name == "paper-losses"
    (tmp_path / "quickstart").write_text("name: mine")
    assert study_file(Path("quickstart")) == Path("quickstart")
    assert study_file(Path("no.yaml")) == Path("no.yaml")
    with pytest.raises(BadInput, match=r"quickstar: no such file.*did you mean 'quickstart'"):
        study_file(Path("quickstar"))


def test_a_copy_is_the_shipped_file_and_never_goes_over_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["studies", "copy", "paper/losses"]).exit_code == 0
    copied = tmp_path / "losses.yaml"
    assert copied.read_text() == (ROOT / "studies" / "paper" / "losses.yaml").read_text()
    copied.write_text("edited")
    again = CliRunner().invoke(app, ["studies", "copy", "paper/losses"])
    assert again.exit_code == 2 and "exists" in again.output and copied.read_text() == "edited"


def test_the_verb_lists_the_studies():
    result = CliRunner().invoke(app, ["studies"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()[:-2]] == [study.name for study in shipped_studies()]


def test_the_wheel_is_said_to_have_every_package():
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ddcal").rglob("__init__.py")}
    assert sorted(said) == sorted({*there, "ddcal.studies"})


@pytest.mark.slow
def test_the_wheel_runs_the_quickstart_outside_a_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True, timeout=600, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True, timeout=600)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)}
    where = [sys.executable, "-c", "import ddcal; print(ddcal.__file__)"]
    said = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600)
    assert said.stdout.startswith(str(tmp_path / "site"))
    for command in (
        ["run", "quickstart", "--debug", "--trials", "2"],
        ["report", "paper", "--output", "page", "--plan"],
    ):
        extra = ["--datasets", "digits"] if command[0] == "report" else []
        call = [sys.executable, "-c", "from ddcal.cli import main; main()", *command, *extra]
        done = subprocess.run(call, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "quickstart" / "summary.json").is_file()
