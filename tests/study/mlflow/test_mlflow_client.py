"""MLflow's database lies in the output root, and nowhere else, whatever characters the root's path has."""

import os
from pathlib import Path

import mlflow
import pytest

from ddcal.study import run_study
from ddcal.study.export.program import first_line
from ddcal.study.mlflow import client
from ddcal.study.mlflow.client import artifact_location, one_line, sqlite_path, sqlite_uri, tracking_uri
from ddcal.study.mlflow.sync import sync_study

ODD = "why? 100% a%20b#ü [x]&y=z"


@pytest.mark.parametrize(
    "name", ["plain", "why?", "why?x=y", "a%20b", "a%3Fb", "100%", "h#sh", "ü b", "[x]&y=z@:+", ODD]
)
def test_an_sqlite_uri_is_of_its_file(tmp_path, name):
    path = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_uri(path)) == path
    if not set("?#%") & set(name):
        assert sqlite_uri(path) == f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        (None, "{root}/mlflow.db"),
        ("sqlite:///{root}/own?.db", "{root}/own?.db"),
        ("sqlite:///{root}/a%20b.db", "{root}/a%20b.db"),
        ("sqlite:///{root}/own.db?timeout=5", "{root}/own.db"),
        ("sqlite:///:memory:", None),
        ("http://127.0.0.1:5000", None),
    ],
)
def test_a_tracking_uri_names_a_path_as_it_is(tiny_study, tmp_path, given, opened):
    uri = tracking_uri(tiny_study(tracking={"uri": given and given.format(root=tmp_path)}), tmp_path)
    assert sqlite_path(uri) == (opened and Path(opened.format(root=tmp_path)))


@pytest.mark.parametrize("experiment", ["../../up", "..", "a/b", "why? 100%"])
def test_artefacts_of_any_experiment_lie_in_a_folder_of_the_root(tmp_path, experiment):
    from mlflow.utils.file_utils import local_file_uri_to_path

    folder = Path(local_file_uri_to_path(artifact_location(tmp_path, experiment)))
    assert folder.parent == tmp_path / "mlartifacts" and Path(os.path.normpath(folder)) == folder


@pytest.mark.slow
def test_further_databases_of_a_process_are_as_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "_EMPTY", {})
    monkeypatch.chdir(tmp_path)
    search = mlflow.MlflowClient.search_experiments

    def making(*arguments, **settings):
        assert {path.stat().st_mode & 0o777 for path in tmp_path.glob(".*.db.*")} == {0o640}, "from the start"
        return search(*arguments, **settings)

    monkeypatch.setattr(mlflow.MlflowClient, "search_experiments", making)
    for name in ("first", "second", "third"):
        if name == "third":  # MLflow writes down the folder that it is made in
            (tmp_path / "elsewhere").mkdir()
            monkeypatch.chdir(tmp_path / "elsewhere")
        client.create_database(tmp_path / f"{name}.db", 0o640)
        assert (tmp_path / f"{name}.db").stat().st_mode & 0o777 == 0o640
    monkeypatch.undo()
    assert (tmp_path / "first.db").read_bytes() == (tmp_path / "second.db").read_bytes()
    for name in ("first", "second", "third"):
        speaks = mlflow.MlflowClient(tracking_uri=sqlite_uri(tmp_path / f"{name}.db"))
        (default,) = speaks.search_experiments()
        place = tmp_path / ("elsewhere/mlruns" if name == "third" else "mlruns")
        assert Path(default.artifact_location.removeprefix("file://")).parent == place
        speaks.create_run(speaks.create_experiment("one"))
    assert not [path for path in tmp_path.rglob(".*")]


def test_a_root_of_any_name_has_its_database_and_artefacts(tiny_study, tmp_path, monkeypatch):
    """`?` began the options of the database's URI, `%20` was decoded: another file than `create_database` made."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / ODD / "runs"
    study = tiny_study(search={"searcher": "random", "trials": 1}, tracking={"experiment": "50 %?"})
    assert run_study(study, output=root, debug=True).unsent == 0
    assert "has everything (0 events were new)" in sync_study(root / "tiny")
    speaks = mlflow.MlflowClient(tracking_uri=tracking_uri(study, root))
    runs = speaks.search_runs([speaks.get_experiment_by_name("50 %?").experiment_id])
    assert sorted(run.data.tags["ddcal.role"] for run in runs) == ["study", "trial"]
    (trial,) = (run for run in runs if run.data.tags["ddcal.role"] == "trial")
    assert "reliability.png" in [file.path for file in speaks.list_artifacts(trial.info.run_id)]
    assert len([*(root / "mlartifacts").rglob("reliability.png")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == [ODD] and [*(tmp_path / ODD).iterdir()] == [root]
    assert sorted(path.name for path in root.iterdir()) == ["mlartifacts", "mlflow.db", "store", "tiny"]


@pytest.mark.parametrize("said", [one_line, first_line])
def test_an_error_about_a_long_path_names_the_file(said):
    error = FileNotFoundError(2, "No such file or directory", f"/{'folder/' * 40}model.onnx")
    told = said(error)
    assert told.startswith("FileNotFoundError: [Errno 2] No such file or directory: '/folder/")
    assert told.endswith("folder/model.onnx'") and len(told) < 250
