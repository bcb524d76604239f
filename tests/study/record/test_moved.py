"""An output root that was moved or copied works at once, and leaves alone what lies where it was."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import mlflow
import pytest
import yaml
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import read_study
from ddcal.study import load_study, run_study
from ddcal.study.mlflow.client import tracking_uri
from ddcal.study.record.ledger import LEDGER, read_ledger
from ddcal.study.record.references import _machine
from ddcal.study.run.runner import resume_study

SEARCH = {"searcher": "random", "trials": 2}


def ddcal(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def as_before(root):
    """Make a root what the version before left: absolute paths in the ledger and in the store's notes."""
    for path in root.glob(f"*/{LEDGER}"):
        events = []
        for event in read_ledger(path.parent):
            values = json.loads(event.model_dump_json(exclude_unset=True, exclude={"paths"})) | {"event": event.event}
            values |= {"store": str(root / "store")} if event.event == "study_started" else {}
            values |= {"log": str(path.parent / values["log"])} if event.event == "trial_started" else {}
            events.append(json.dumps(values) + "\n")
        path.write_text("".join(events))
    for path in (root / "store" / "references").glob("*.json"):
        note = json.loads(path.read_text())
        folder = os.path.normpath(root / "store" / note["folder"])
        path.write_text(json.dumps(note | {"folder": folder, "machine": _machine()}))


@pytest.fixture(scope="module")
def roots(tiny_study, tmp_path_factory):
    """roots() -> a new folder with runs/, a root with the study "tiny" and its MLflow database."""
    made = tmp_path_factory.mktemp("made") / "project"
    run_study(tiny_study(search=SEARCH, tracking={}), output=made / "runs", debug=True)

    def copy():
        place = tmp_path_factory.mktemp("place") / "before"
        shutil.copytree(made, place)
        with sqlite3.connect(place / "runs" / "mlflow.db") as database:  # as if it had been made there
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(made), str(place)))
        return place

    return copy


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def artefacts(root):
    """Run name → the paths of its artefacts, as MLflow finds them; all lie in the root."""
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(load_study(root / "tiny").study, root))
    found = {}
    for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id]):
        assert run.info.artifact_uri.startswith(f"{(root / 'mlartifacts').as_uri()}/"), run.info.artifact_uri
        found[run.data.tags["mlflow.runName"]] = [file.path for file in client.list_artifacts(run.info.run_id)]
    return found


@pytest.mark.parametrize(
    ("version", "how"),
    [
        ("this", "moved"),
        ("before", "copied"),
        pytest.param("this", "copied", marks=pytest.mark.slow),
        pytest.param("before", "moved", marks=pytest.mark.slow),
    ],
)
def test_everything_works_at_once_and_the_old_place_is_left_alone(roots, tmp_path, version, how, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = roots()
    if version == "before":
        as_before(old / "runs")
    new = tmp_path / "after?"
    if how == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
    there = snapshot(old)
    root = new / "runs"
    assert ddcal("export", root / "tiny", "--to", tmp_path / "best").exit_code == 0
    assert ddcal("store", "prune", root).output == "removed 0 artefacts, 0.0 MB\n"
    assert ddcal("status", root / "tiny").exit_code == ddcal("compare", root).exit_code == 0
    assert ddcal("report", "study", root / "tiny").exit_code == 0
    results = resume_study(root / "tiny", trials=3, debug=True)
    assert [trial.outcome for trial in results.records] == ["complete"] * 3 and results.unsent == 0
    assert all((results.directory / trial.log).is_file() for trial in results.records)
    assert results.store == str(root / "store") and str(old) not in (results.directory / "trials.csv").read_text()
    assert ddcal("sync", root / "tiny").exit_code == 0
    found = artefacts(root)
    assert {name: "reliability.png" in files for name, files in found.items() if name != "tiny"} == dict.fromkeys(
        [f"tiny-{number:04d}" for number in range(3)], True
    )
    assert ddcal("store", "prune", root).output == "removed 0 artefacts, 0.0 MB\n"
    assert snapshot(old) == there and old.exists() == (how == "copied")


def test_a_registered_model_moves_with_its_root(roots, tmp_path):
    root = roots() / "runs"
    assert ddcal("export", root / "tiny", "--to", tmp_path / "best", "--register", "digits").exit_code == 0
    root.rename(tmp_path / "new")
    again = ddcal("export", tmp_path / "new" / "tiny", "--to", tmp_path / "best", "--register", "digits")
    assert again.exit_code == 0 and "version 1 of digits, as before" in again.output
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/new/mlflow.db")
    source = client.get_model_version("digits", "1").source
    assert source.startswith(f"{(tmp_path / 'new').as_uri()}/mlartifacts/")


def test_what_is_written_below_the_root_is_relative(tiny_study, tmp_path, monkeypatch):
    """The data too, where it lies there; a resumed study finds it where the root lies now."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16 * 255).astype(np.uint8), digits.target
    root = tmp_path / "project" / "runs"
    root.mkdir(parents=True)
    arrays = {"x_train": images[:1200], "y_train": labels[:1200], "x_test": images[1200:], "y_test": labels[1200:]}
    np.savez(root / "my.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    base = {"data": {"name": "npz", "root": "project/runs/my.npz", "validation_fraction": 0.3}}
    places = {"storage": {"store": "project/runs/artefacts"}, "search": {**SEARCH, "trials": 1}}
    run_study(tiny_study(base, **places), output="project/runs", debug=True)
    text = "".join((root / "tiny" / name).read_text() for name in (LEDGER, "study.yaml", "trials.csv", "summary.json"))
    assert str(tmp_path) not in text
    written = yaml.safe_load((root / "tiny" / "study.yaml").read_text())
    assert (written["storage"]["output"], written["storage"]["store"]) == ("..", "../artefacts")
    assert read_study(root / "tiny" / "study.yaml").storage.output == str(root)
    (tmp_path / "project").rename(tmp_path / "other")
    monkeypatch.chdir("/")
    moved = resume_study(tmp_path / "other" / "runs" / "tiny", trials=2, debug=True)
    assert moved.store == str(tmp_path / "other" / "runs" / "artefacts")
    assert {trial.config.data.root for trial in moved.records} == {str(tmp_path / "other" / "runs" / "my.npz")}
    assert moved.records[1].cache_hits[:2] == ("distill", "train")


def test_paths_of_a_study_file_are_relative_to_it(write_study, tmp_path, monkeypatch):
    """Those on the command line, and the default output root, to the working folder."""
    folder = tmp_path / "studies"
    folder.mkdir()
    places = {"storage": {"output": "out", "store": "../store", "cache": "~/c"}, "tracking": {"uri": "sqlite:///m.db"}}
    space = {"distill.file.images": {"choice": ["a.pt", "/b.pt"]}}
    file = write_study({"data.root": "my.npz", "distill": {"file": {"labels": "l.pt"}}}, space=space, **places)
    file = Path(shutil.move(file, folder / "s.yaml"))
    monkeypatch.chdir("/")
    study = read_study(file, ["storage.cache=here", "base.distill.file.labels=there.pt"])
    assert (
        study.base["data"]["root"] == str(folder / "my.npz") and study.base["distill"]["file"]["labels"] == "there.pt"
    )
    assert study.storage.output == str(folder / "out") and study.storage.store == str(tmp_path / "store")
    assert study.storage.cache == "here" and study.tracking.uri == f"sqlite:///{folder / 'm.db'}"
    assert study.space["distill.file.images"].choice == (str(folder / "a.pt"), "/b.pt")
    assert read_study(file, ["storage={}"]).storage.output == "runs"


def test_a_database_elsewhere_keeps_its_artefacts_beside_it(tiny_study, tmp_path):
    own = tmp_path / "own"
    study = tiny_study(search={**SEARCH, "trials": 1}, tracking={"uri": f"sqlite:///{own}/m.db"})
    run_study(study, output=tmp_path / "runs", debug=True)
    assert sorted(path.name for path in own.iterdir()) == ["m.db", "mlartifacts"]
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    before = snapshot(tmp_path / "runs")
    assert resume_study(tmp_path / "copy" / "tiny", trials=2, debug=True).unsent == 0
    assert snapshot(tmp_path / "runs") == before and not (tmp_path / "copy" / "mlartifacts").exists()


@pytest.mark.slow
def test_an_mlflow_model_is_written_into_a_folder_of_any_name(roots, tmp_path):
    best = tmp_path / "be?st %20#"
    assert ddcal("export", roots() / "runs" / "tiny", "--to", best, "--model", "mlflow").exit_code == 0
    assert (best / "model" / "MLmodel").is_file() and [path.name for path in tmp_path.iterdir()] == [best.name]
