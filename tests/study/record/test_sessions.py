"""A study over several drivers: what each has computed with, how long they worked, and who writes its tables."""

import json
import os
import threading

import pytest
from ledgers import plain_events, write_plain
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.study import load_study, resume_study, run_study
from ddcal.study.export.export import describe_run
from ddcal.study.record.folder_files import replace_text
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.results import PARETO, SUMMARY, TRIALS
from ddcal.study.record.status import study_status, write_tables
from ddcal.study.run.confirm import confirm
from ddcal.study.run.driver import installed
from ddcal.versions import package_versions

LR = {"train.lr": {"uniform": [0.05, 0.1]}}


@pytest.fixture
def begun(tiny_study, tmp_path):
    study = tiny_study(space=LR, search={"searcher": "random", "trials": 1})
    return run_study(study, output=tmp_path, debug=True).directory


def test_a_trial_has_the_versions_of_its_own_session(tiny_study, tmp_path, monkeypatch):
    """Of packages that were upgraded between two sessions, an export names those that computed its trial."""
    older = {"versions": package_versions() | {"torch": "2.0.1"}, "git_commit": "0" * 40}
    study = tiny_study(space=LR, search={"searcher": "random", "trials": 1})
    with monkeypatch.context() as patch:
        patch.setattr("ddcal.study.run.driver.installed", lambda: older)
        directory = run_study(study, output=tmp_path, debug=True).directory
    results = resume_study(directory, trials=2, debug=True)
    first, second = (describe_run(results, trial, {}) for trial in results.records)
    assert {name: first[name] for name in older} == older
    assert {name: second[name] for name in older} == installed()
    assert first["environment"] == second["environment"] == results.started["environment"]

    events = plain_events(directory / LEDGER)  # an earlier version did not say it of later sessions
    for event in events:
        if event["event"] == "study_resumed":
            del event["versions"], event["git_commit"]
    write_plain(directory / LEDGER, events)
    assert [describe_run(results, trial, {})["versions"]["torch"] for trial in load_study(directory).records] == [
        "2.0.1"
    ] * 2


def test_the_time_of_a_killed_driver_counts(begun):
    events = [event for event in plain_events(begun / LEDGER) if event["event"] != "study_finished"]
    for event in events:
        event["time"] = 1_000_000
    events[-1]["time"] += 44_000
    resumed = {"event": "study_resumed", "time": 9_000_000, "study": events[0]["study"], "paths": "folder"}
    finished = {"event": "study_finished", "time": 9_005_000, "interrupted": False}
    write_plain(begun / LEDGER, events)
    assert load_study(begun).seconds is None
    write_plain(begun / LEDGER, [*events, resumed])
    assert load_study(begun).seconds == 44.0
    write_plain(begun / LEDGER, [*events, resumed, finished | {"seconds": 49.0}, resumed])
    assert load_study(begun).seconds == 49.0


def test_the_tables_of_a_running_study_are_its_drivers(begun):
    results = load_study(begun)
    for name in (TRIALS, PARETO, SUMMARY):
        (begun / name).unlink()
    lock = DriverLock(begun)
    write_tables(results)
    shown = CliRunner().invoke(app, ["pareto", str(begun)])
    assert shown.exit_code == 0 and "tiny-0000" in shown.output, shown.output
    assert not (begun / TRIALS).exists()
    lock.release()
    write_tables(results)
    assert all((begun / name).is_file() for name in (TRIALS, PARETO, SUMMARY))


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path, errors = tmp_path / "table.csv", []

    def write(text):
        try:
            for _ in range(300):
                replace_text(path, text)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter * 10_000,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(set(path.read_text())) == 1
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_confirmation_writes_of_a_study_that_has_gone_on_what_it_is_now(begun):
    earlier = load_study(begun)
    resume_study(begun, trials=3, debug=True)
    confirm(earlier, top=1, seeds=2, debug=True)
    assert json.loads((begun / SUMMARY).read_text())["outcomes"] == {"complete": 3}
    assert len((begun / TRIALS).read_text().splitlines()) == 4


def test_a_confirmation_is_extended_by_confirm_alone(begun):
    confirm(load_study(begun), top=1, seeds=2, debug=True)
    confirming = begun.parent / "tiny-confirm"
    with pytest.raises(
        BadInput, match=r"--trials 4: .*tiny-confirm has a trial for each leader of tiny .*`ddcal confirm "
    ):
        resume_study(confirming, trials=4, debug=True)
    said = CliRunner().invoke(app, ["resume", str(confirming)]).output
    assert f"ddcal confirm {begun} --top N --seeds N" in said and "ddcal resume" not in said


def test_a_seed_that_decides_what_is_searched_cannot_be_fresh(tiny_study, tmp_path):
    space = {"seed": {"choice": [0, 1]}, "train.lr": {"choice": [0.05, 0.1], "when": {"seed": [0]}}}
    study = tiny_study(space=space, search={"searcher": "random", "trials": 1})
    with pytest.raises(BadInput, match=r"space\.train\.lr\.when looks at seed"):
        confirm(run_study(study, output=tmp_path, debug=True), top=1, seeds=2, debug=True)
    assert not (tmp_path / "tiny-confirm").exists()


def test_a_space_that_is_through_is_not_called_extendable(tiny_study, tmp_path):
    study = tiny_study(space={"train.lr": {"choice": [0.05, 0.1]}}, search={"searcher": "grid", "trials": 2})
    results = run_study(study, output=tmp_path, debug=True)
    assert study_status(results.directory).points == 2
    said = CliRunner().invoke(app, ["resume", str(results.directory)]).output
    assert "every one of the 2 points of its space was tried" in said and "--trials" not in said


def test_mlflow_has_the_study_as_it_goes_on(tiny_study, tmp_path):
    import mlflow
    import yaml

    study = tiny_study(space=LR, search={"searcher": "random", "trials": 1}, tracking={"uri": None})
    directory = run_study(study, output=tmp_path, debug=True).directory
    resume_study(directory, trials=2, debug=True)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = (one for one in client.search_experiments() if one.name != "Default")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`ddcal.role` = 'study'")
    kept = client.download_artifacts(parent.info.run_id, "study.yaml", str(tmp_path))
    with open(kept) as stream:
        assert yaml.safe_load(stream)["search"]["trials"] == 2
