"""What a study leaves in a real MLflow: SQLite files, and one server on the loopback interface."""

import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import mlflow
import pytest
import yaml

from ddcal.study import load_study, run_study
from ddcal.study import tracking as tracking_module
from ddcal.study.tracking import MLflowTracker, Tracker, make_tracker, tracking_uri


def runs_of(uri, experiment="tiny"):
    """The parent run and the child runs by trial key."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = {run.data.tags["ddcal.trial_key"]: run for run in runs if run not in parents}
    assert len(children) == len(runs) - 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} <= {parents[0].info.run_id}
    return client, parents[0], children


SPACE = {"distill.ipc": {"choice": [1, 500]}, "calibrate.mask.ratio": {"uniform": [0.0, 0.9]}}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny_study):
    """A finished study of a good and a failing trial, with what MLflow holds of it."""
    enqueue = [{"distill.ipc": 1, "calibrate.mask.ratio": 0.5}, {"distill.ipc": 500}]
    study = tiny_study(
        space=SPACE, search={"trials": 2, "enqueue": enqueue}, tracking={}, description="What this study is for."
    )
    root = tmp_path_factory.mktemp("runs")
    return run_study(study, output=root, debug=True), *runs_of(f"sqlite:///{root}/mlflow.db")


def artifacts(client, run):
    return {file.path for file in client.list_artifacts(run.info.run_id)}


def test_one_parent_run_a_study(tracked):
    results, client, parent, children = tracked
    assert parent.info.status == "FINISHED" and parent.info.run_name == "tiny"
    assert parent.data.tags["ddcal.study"] == "tiny"
    assert parent.data.tags["ddcal.winner"] == "tiny-0000"
    assert parent.data.tags["mlflow.note.content"] == "What this study is for."
    assert parent.data.params["search.trials"] == "2" and parent.data.params["objective.val/ece"] == "min"
    assert parent.data.metrics == {f"best/{name}": value for name, value in results.best.metrics.items()}
    assert artifacts(client, parent) == {"study.yaml", "trials.csv", "pareto.csv", "summary.json"}
    assert set(children) == {"tiny-0000", "tiny-0001"}


def test_a_child_run_holds_its_trial(tracked):
    results, client, _, children = tracked
    run, trial = children["tiny-0000"], results.records[0]
    assert run.info.status == "FINISHED" and run.info.run_name == "tiny-0000"
    assert run.data.params == {"distill.ipc": "1", "calibrate.mask.ratio": "0.5"}
    assert run.data.metrics == trial.metrics
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("ddcal.")}
    del tags["ddcal.git_commit"]
    assert tags == {
        "ddcal.study": "tiny",
        "ddcal.trial_key": "tiny-0000",
        "ddcal.trial_number": "0",
        "ddcal.outcome": "complete",
        "ddcal.cache_hits": "",
        **{f"ddcal.key.{stage}": key for stage, key in trial.keys.items()},
    }
    assert artifacts(client, run) == {"config.yaml", "reliability.png"}
    config = yaml.safe_load(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml"))
    assert config == trial.config


def test_metrics_are_logged_at_the_steps_of_their_points(tracked):
    _, client, _, children = tracked
    run_id = children["tiny-0000"].info.run_id
    steps = {
        name: [metric.step for metric in client.get_metric_history(run_id, name)]
        for name in ("val/ece", "val/accuracy", "val/nll", "test/ece", "temperature")
    }
    for name in ("val/ece", "val/accuracy", "val/nll"):
        assert sorted(steps[name]) == [*range(125, 501, 125), *range(600, 901, 100), 1000]
    assert steps["test/ece"] == steps["temperature"] == [1000]


def test_the_dataset_is_an_input_with_its_digest(tracked):
    results, _, _, children = tracked
    (data,) = children["tiny-0000"].inputs.dataset_inputs
    assert data.dataset.name == "digits"
    assert results.records[0].fingerprint.startswith(data.dataset.digest) and len(data.dataset.digest) == 36
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_a_failed_trial_is_a_failed_run_with_its_error(tracked):
    _, client, _, children = tracked
    run = children["tiny-0001"]
    assert run.info.status == "FAILED" and run.data.tags["ddcal.outcome"] == "failed"
    assert "500" in run.data.tags["ddcal.error"] and run.data.metrics == {}
    assert artifacts(client, run) == {"config.yaml"}


def test_an_interrupted_study_leaves_no_run_running(tiny_study, tmp_path):
    def interrupt(trial):
        if trial.number == 1:
            raise KeyboardInterrupt

    study = tiny_study(search={"trials": 4}, tracking={})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, debug=True, on_finished=interrupt)
    _, parent, children = runs_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert parent.info.status == "KILLED"
    assert {key: run.info.status for key, run in children.items()} == {"tiny-0000": "FINISHED", "tiny-0001": "FINISHED"}
    assert load_study(tmp_path / "tiny").seconds is not None


def test_an_interrupted_trial_is_a_killed_run(tiny_study, tmp_path):
    def interrupt(advance):
        if advance.stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(tracking={}), output=tmp_path, debug=True, on_advance=interrupt)
    _, parent, children = runs_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert parent.info.status == "KILLED"
    assert {key: run.info.status for key, run in children.items()} == {"tiny-0000": "KILLED"}
    assert [trial.outcome for trial in load_study(tmp_path / "tiny").records] == ["killed"]


@pytest.fixture
def tracker(tiny_study, tmp_path):
    """A tracker of a study in ``tmp_path`` that has begun."""
    (tmp_path / "study.yaml").write_text("name: tiny\n")
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db", "tiny", (tmp_path / "artifacts").as_uri())
    tracker.study_started(tiny_study(), tmp_path, {"git_commit": None})
    yield tracker
    settle(tracker)


def settle(tracker):
    """Wait until everything that was put into the queue is logged."""
    tracker._queue.put(None)
    tracker._thread.join(30)


RECORD = {"outcome": "complete", "cache_hits": (), "keys": {}, "error": None, "fingerprint": None}


def test_more_params_than_a_batch_and_long_values_are_logged(tracker, tmp_path):
    values = {f"train.setting_{i}": i for i in range(230)} | {"train.long": "x" * 9000}
    tracker.trial_started(0, "tiny-0000", values, {"data": {"name": "digits"}})
    tracker.trial_finished(0, RECORD, None)
    settle(tracker)
    _, _, children = runs_of(tracker.uri)
    params = children["tiny-0000"].data.params
    assert len(params) == 231 and params["train.setting_229"] == "229" and len(params["train.long"]) == 6000
    assert tracker.failures == 0


def test_every_outcome_has_its_run_status(tracker):
    expected = {
        "complete": "FINISHED",
        "infeasible": "FINISHED",
        "pruned": "KILLED",
        "killed": "KILLED",
        "failed": "FAILED",
        "out_of_memory": "FAILED",
    }
    for number, outcome in enumerate(expected):
        tracker.trial_started(number, outcome, {}, {"data": {"name": "digits"}})
        tracker.trial_finished(number, {**RECORD, "outcome": outcome}, None)
    settle(tracker)
    children = runs_of(tracker.uri)[2]
    assert {outcome: children[outcome].info.status for outcome in expected} == expected


def test_a_point_that_comes_twice_is_logged_once(tracker):
    points = [{"progress": p, "stage": "train", "complete": False, "val/ece": p} for p in (0.6, 0.7)]
    tracker.trial_started(0, "tiny-0000", {}, {"data": {"name": "digits"}})
    tracker.trial_points(0, points[:1])
    tracker.trial_points(0, points)  # a worker that died reports its points again
    tracker.trial_finished(0, RECORD, None)
    settle(tracker)
    client, _, children = runs_of(tracker.uri)
    history = client.get_metric_history(children["tiny-0000"].info.run_id, "val/ece")
    assert [(metric.step, metric.value) for metric in history] == [(600, 0.6), (700, 0.7)]


def test_a_run_ends_although_its_artifacts_cannot_be_logged(tracker, tmp_path, caplog):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    tracker.trial_started(0, "tiny-0000", {}, {"data": {"name": "digits"}})
    picture = tmp_path / "reliability.png"
    picture.write_bytes(b"png")
    with caplog.at_level(logging.WARNING):
        tracker.trial_finished(0, RECORD, picture)
        settle(tracker)
    assert runs_of(tracker.uri)[2]["tiny-0000"].info.status == "FINISHED"
    assert tracker.failures > 0 and len(caplog.records) == 1


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("none", None), (None, "sqlite:///{root}/mlflow.db"), ("http://127.0.0.1:5000", "http://127.0.0.1:5000")],
)
def test_the_default_database_lies_in_the_output_root(tiny_study, tmp_path, uri, expected):
    study = tiny_study(tracking={"uri": uri})
    assert tracking_uri(study, tmp_path) == (expected and expected.format(root=tmp_path))


def test_without_tracking_nothing_is_written(tiny_study, tmp_path):
    assert type(make_tracker(tiny_study(), tmp_path)) is Tracker
    run_study(tiny_study(search={"trials": 1}), output=tmp_path, debug=True)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "store"}


def test_an_absent_server_costs_the_study_nothing_but_a_sentence(tiny_study, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(tracking_module, "CLOSE_SECONDS", 20.0)
    study = tiny_study(tracking={"uri": "http://127.0.0.1:1"})
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="ddcal"):
        results = run_study(study, output=tmp_path, debug=True)
    assert time.monotonic() - began < 18, "gave up at the first failure, not at the closing time"
    assert [trial.outcome for trial in results.records] == ["complete"] * 2
    (record,) = [record for record in caplog.records if record.name == "ddcal.study.tracking"]
    assert "http://127.0.0.1:1" in record.getMessage() and "without tracking" in record.getMessage()


@pytest.fixture
def server(tmp_path):
    """A real tracking server on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | settings, cwd=tmp_path, stdout=log, stderr=log)
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                time.sleep(0.1)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


def test_a_tracking_server_holds_the_same(tiny_study, tmp_path, server):
    results = run_study(tiny_study(tracking={"uri": server}), output=tmp_path / "runs", debug=True)
    client, parent, children = runs_of(server)
    assert parent.info.status == "FINISHED" and {run.info.status for run in children.values()} == {"FINISHED"}
    assert artifacts(client, parent) == {"study.yaml", "trials.csv", "pareto.csv", "summary.json"}
    for trial in results.records:
        run = children[trial.trial_key]
        assert run.data.metrics == trial.metrics
        assert artifacts(client, run) == {"config.yaml", "reliability.png"}
    assert not (tmp_path / "runs" / "mlflow.db").exists()
