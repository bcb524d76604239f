"""What a study leaves in a real MLflow: SQLite files, and servers on the loopback interface."""

import contextlib
import json
import logging
import os
import threading

import mlflow
import pytest
import yaml
from nodes import free_port
from servers import mlflow_server, refusing

from ddcal.errors import BadInput, TrackingError
from ddcal.study import load_study, run_study
from ddcal.study.export.export import export_trial
from ddcal.study.mlflow import follower as following
from ddcal.study.mlflow.client import tracking_uri
from ddcal.study.mlflow.cursor import CURSOR, Cursor
from ddcal.study.mlflow.mirror import ARTIFACT_ATTEMPTS, Mirror
from ddcal.study.mlflow.opening import make_mirror
from ddcal.study.mlflow.sync import sync_study
from ddcal.study.mlflow.trial_files import is_metric
from ddcal.study.record.events import (
    LedgerRepaired,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.ledger import LEDGER, Ledger, read_ledger
from ddcal.study.run.runner import Hooks, resume_study


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


def history(client, run):
    """Every metric point of a run, sorted: one that was sent twice is here twice."""
    return sorted(
        (name, point.step, point.value, point.timestamp)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    )


def points_of(directory):
    """The same from the ledger, by trial key."""
    points, keys = {}, {}
    for event in read_ledger(directory):
        if event.event == "trial_started":
            keys[event.number] = event.trial_key
            points.setdefault(event.trial_key, [])
        elif event.event == "trial_points":
            points[keys[event.number]] += [
                (name, round(100 * point["progress"]), value, event.time)
                for point in event.points
                for name, value in point.items()
                if isinstance(value, float) and name != "progress" and is_metric(name, ())
            ]
    return {key: sorted(values) for key, values in points.items()}


def assert_exactly_once(uri, directory, parent_status="FINISHED"):
    """MLflow holds what the ledger says: one run a trial, in their order, and every point once."""
    client, parent, children = runs_of(uri)
    assert {key: history(client, run) for key, run in children.items()} == points_of(directory)
    by_start = sorted(children.values(), key=lambda run: run.info.start_time)
    assert [run.data.tags["ddcal.trial_key"] for run in by_start] == sorted(children)
    best = history(client, parent)
    assert len({point[:2] for point in best}) == len(best)
    assert parent.info.status == parent_status
    outcomes = {trial.trial_key: trial.outcome for trial in load_study(directory).records}
    assert {key: run.data.tags.get("ddcal.outcome") for key, run in children.items()} == outcomes
    assert "RUNNING" not in {run.info.status for run in (parent, *children.values())}
    assert all(run.info.start_time <= run.info.end_time for run in (parent, *children.values()))
    return client, parent, children


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
    shown = ("val/ece", "val/accuracy", "val/nll", "test/ece", "test/nll", "test/accuracy")  # the columns' own names
    assert parent.data.metrics == {name: results.best.metrics[name] for name in shown}
    assert artifacts(client, parent) == {"study.yaml", "trials.csv", "pareto.csv", "summary.json"}
    view = json.loads(client.get_experiment(parent.info.experiment_id).tags["mlflow.sharedViewState.ddcal"])
    assert {"metrics.`val/ece`", "params.`distill.ipc`", "tags.`ddcal.outcome`"} <= set(view["selectedColumns"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val/nll`", True)
    assert view["runsExpanded"] == {parent.info.run_id: True} and view["columnOrder"][0] == "tags.`ddcal.winner`"
    assert set(children) == {"tiny-0000", "tiny-0001"}
    assert [children[key].data.tags.get("ddcal.winner") for key in ("tiny-0000", "tiny-0001")] == ["winner", None]


def test_a_trial_shows_how_it_learned_images_and_what_corruptions_change(tiny_study, tmp_path):
    base = {"distill": {"backbone": "dc", "iterations": 4, "matching": {"outer": 1, "inner": 1}}}
    base["evaluate"] = {"shift": {"corruptions": ["contrast"], "images": 20}}
    results = run_study(tiny_study(base=base, search={"trials": 1}, tracking={}), output=tmp_path, debug=True)
    client, _, children = runs_of(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = children.values()
    pictures = {"reliability.png", "shift.png", "distilled.png", "progress.png"}
    assert artifacts(client, run) == {"config.yaml", "metrics.json"} | pictures
    export_trial(results, results.best, tmp_path / "best")
    readme = (tmp_path / "best" / "README.md").read_text()
    for name in ("distilled.png", "progress.png"):
        assert (tmp_path / "best" / name).is_file() and f"`{name}`" in readme


def test_a_child_run_holds_its_trial(tracked):
    results, client, _, children = tracked
    run, trial = children["tiny-0000"], results.records[0]
    assert run.info.status == "FINISHED" and run.info.run_name == "tiny-0000"
    assert run.data.params == {"distill.ipc": "1", "calibrate.mask.ratio": "0.5"}
    assert len(run.data.metrics) < 35 < len(trial.metrics)  # MLflow draws a chart for each
    assert run.data.metrics == {name: trial.metrics[name] for name in run.data.metrics}
    first = next(event for event in read_ledger(results.directory) if event.event == "trial_points").points[0]
    curves = {name for name in first if name.startswith("val/")}
    main = {f"test/{name}" for name in ("ece", "raw/nll", "ts_train/accuracy", "ts_val/ece", "ece_noise_floor")}
    assert curves | main | {"temperature"} <= set(run.data.metrics)
    assert json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/metrics.json")) == trial.metrics
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("ddcal.")}
    tags.pop("ddcal.git_commit", None)  # in a checkout
    lasted = (run.info.end_time - run.info.start_time) / 1000
    assert float(tags.pop("ddcal.worked_seconds")) == lasted >= trial.seconds - 0.1
    (begun,) = [event for event in read_ledger(tracked[0].directory) if event.event == "study_started"]
    assert tags == {
        "ddcal.role": "trial",
        "ddcal.study_id": begun.study_id,
        "ddcal.study": "tiny",
        "ddcal.trial_key": "tiny-0000",
        "ddcal.trial_number": "0",
        "ddcal.step": "percent of the trial",
        "ddcal.winner": "winner",
        "ddcal.outcome": "complete",
        "ddcal.cache_hits": "",
        **{f"ddcal.{name}_seconds": "0.000" for name in ("waited", "saved", "saved_gpu")},
        **{f"ddcal.key.{stage}": key for stage, key in trial.keys.items()},
    }
    assert artifacts(client, run) == {"config.yaml", "metrics.json", "reliability.png", "distilled.png"}
    config = yaml.safe_load(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml"))
    assert config == trial.config.model_dump(mode="json")


def test_metrics_are_logged_at_the_steps_of_their_points(tracked):
    _, client, _, children = tracked
    run_id = children["tiny-0000"].info.run_id
    steps = {
        name: [metric.step for metric in client.get_metric_history(run_id, name)]
        for name in ("val/ece", "val/accuracy", "val/nll", "test/ece", "temperature")
    }
    for name in ("val/ece", "val/accuracy", "val/nll"):
        assert sorted(steps[name]) == [12, 25, 38, 50, 60, 70, 80, 90, 100]  # percent of the trial
    assert steps["test/ece"] == steps["temperature"] == [100]


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
        run_study(study, output=tmp_path, debug=True, hooks=Hooks(on_finished=interrupt))
    _, parent, children = runs_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert parent.info.status == "KILLED"
    assert {key: run.info.status for key, run in children.items()} == {"tiny-0000": "FINISHED", "tiny-0001": "FINISHED"}
    assert load_study(tmp_path / "tiny").seconds is not None


def test_an_interrupted_trial_is_a_killed_run(tiny_study, tmp_path):
    def interrupt(advance):
        if advance.stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_study(tracking={}), output=tmp_path, debug=True, hooks=Hooks(on_advance=interrupt))
    _, parent, children = runs_of(f"sqlite:///{tmp_path}/mlflow.db")
    assert parent.info.status == "KILLED"
    assert {key: run.info.status for key, run in children.items()} == {"tiny-0000": "KILLED"}
    assert [trial.outcome for trial in load_study(tmp_path / "tiny").records] == [None]


# The mirror, event by event


class Study:
    """A ledger written by hand in ``directory``, and its mirror to a database beside it."""

    def __init__(self, directory, study):
        self.directory, self.study = directory, study
        (directory / "study.yaml").write_text("name: tiny\n")
        self.ledger = Ledger(directory)
        self.ledger.append(StudyStarted, study=study.model_dump(mode="json"), study_id="i" * 32, git_commit=None)
        self.mirror = self.new_mirror()

    def new_mirror(self):
        root = self.directory
        return Mirror(root, f"sqlite:///{root}/mlflow.db", "tiny", (root / "artifacts").as_uri())

    def started(self, number, values=None, key=None):
        named = {"number": number, "trial_key": key or f"tiny-{number:04d}", "values": values or {}}
        self.ledger.append(TrialStarted, **named, config={"data": {"name": "digits"}})

    def points(self, number, *progress):
        points = [
            {"progress": p, "stage": "train", "complete": False, "val/ece": p, "val/nll": 2 * p} for p in progress
        ]
        self.ledger.append(TrialPoints, number=number, points=points)

    def finished(self, number, outcome="complete", diagram=None):
        record = {"outcome": outcome, "cache_hits": [], "keys": {}, "error": None, "fingerprint": "f" * 64}
        self.ledger.append(TrialFinished, number=number, metrics={}, diagram=diagram, **record)

    def ended(self, interrupted=False, finished=1):
        best = {"trial_key": "tiny-0000", "metrics": {"val/ece": 0.5, "val/nll": 0.25}}
        self.ledger.append(StudyFinished, seconds=1.0, interrupted=interrupted, finished=finished, best=best)

    def advance(self, mirror=None):
        while (mirror or self.mirror).advance():
            pass
        return runs_of(self.mirror.uri)


@pytest.fixture
def by_hand(tiny_study, tmp_path):
    study = Study(tmp_path, tiny_study())
    yield study
    study.ledger.close()


def test_more_params_than_a_batch_and_long_values_are_logged(by_hand):
    by_hand.started(0, {f"train.setting_{i}": i for i in range(230)} | {"train.long": "x" * 9000})
    by_hand.finished(0)
    params = by_hand.advance()[2]["tiny-0000"].data.params
    assert len(params) == 231 and params["train.setting_229"] == "229" and len(params["train.long"]) == 6000


def test_what_a_link_in_the_folder_leads_to_is_no_artifact(by_hand, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "id_rsa").write_text("mine")
    (tmp_path / "figures" / "front.png").write_bytes(b"front")
    for name in ("figures/history.png", "trials.csv"):
        (tmp_path / name).symlink_to(tmp_path / "id_rsa")
    by_hand.ended()
    client, parent, _ = by_hand.advance()
    there = [item.path for folder in (None, "figures") for item in client.list_artifacts(parent.info.run_id, folder)]
    assert there == ["figures", "study.yaml", "figures/front.png"]


def test_every_outcome_has_its_run_status(by_hand):
    expected = {
        "complete": "FINISHED",
        "infeasible": "FINISHED",
        "pruned": "KILLED",
        "killed": "KILLED",
        "failed": "FAILED",
        "out_of_memory": "FAILED",
    }
    for number, outcome in enumerate(expected):
        by_hand.started(number, key=outcome)
        by_hand.finished(number, outcome)
    children = by_hand.advance()[2]
    assert {outcome: children[outcome].info.status for outcome in expected} == expected


def test_more_points_than_a_batch_are_logged_with_the_ledgers_time(by_hand):
    by_hand.started(0)
    by_hand.points(0, *(step / 1000 for step in range(1, 801)))
    by_hand.finished(0)
    client, _, children = by_hand.advance()
    assert history(client, children["tiny-0000"]) == points_of(by_hand.directory)["tiny-0000"]
    assert len(history(client, children["tiny-0000"])) == 1600


def whole_study(study):
    """A study of two trials, of which the second is interrupted and goes on."""
    study.started(0, {"a": 1})
    study.points(0, 0.5, 0.6)
    study.started(1, {"a": 2})
    study.points(1, 0.5)
    study.points(0, 1.0)
    study.finished(0)
    study.ended(interrupted=True)
    study.ledger.append(StudyResumed, study=study.study.model_dump(mode="json"))
    study.started(1, {"a": 2})
    study.points(1, 1.0)
    study.finished(1)
    study.ended(finished=2)


def test_a_cursor_that_is_one_event_behind_at_every_event_sends_nothing_twice(by_hand):
    """Killed between the sending of an event and the writing of the cursor, every time."""
    whole_study(by_hand)
    by_hand.ledger.append(LedgerRepaired, lost=["an event that MLflow need not know"])
    cursor, behind = by_hand.directory / CURSOR, None
    mirror = by_hand.new_mirror()
    while mirror.advance():
        ahead = cursor.read_text()
        cursor.unlink() if behind is None else cursor.write_text(behind)
        again = by_hand.new_mirror()
        assert again.advance()
        assert json.loads(cursor.read_text()) == json.loads(ahead), "the same runs"
        behind, mirror = ahead, by_hand.new_mirror()
    assert mirror.pending == 0
    client, parent, children = runs_of(mirror.uri)
    assert {key: history(client, run) for key, run in children.items()} == points_of(by_hand.directory)
    assert [(step, value) for _, step, value, _ in history(client, parent)] == [
        (1, 0.5),
        (2, 0.5),
        (1, 0.25),
        (2, 0.25),
    ]
    assert parent.info.status == "FINISHED"
    assert {key: run.info.status for key, run in children.items()} == {"tiny-0000": "FINISHED", "tiny-0001": "FINISHED"}


def test_an_interrupted_trial_is_a_killed_run_until_it_goes_on(by_hand):
    statuses = []
    whole_study(by_hand)
    while by_hand.mirror.advance():
        _, parent, children = runs_of(by_hand.mirror.uri)
        run = children.get("tiny-0001")
        statuses.append((parent.info.status, run and run.info.status))
    changes = [status for status, before in zip(statuses, [None, *statuses], strict=False) if status != before]
    assert changes == [
        ("RUNNING", None),
        ("RUNNING", "RUNNING"),
        ("KILLED", "KILLED"),
        ("RUNNING", "KILLED"),
        ("RUNNING", "RUNNING"),
        ("RUNNING", "FINISHED"),
        ("FINISHED", "FINISHED"),
    ]


def test_a_study_that_ends_twice_without_a_trial_between_says_its_best_once(by_hand):
    by_hand.started(0)
    by_hand.finished(0)
    by_hand.ended()
    by_hand.ledger.append(StudyResumed, study=by_hand.study.model_dump(mode="json"))
    by_hand.ended()
    client, parent, _ = by_hand.advance()
    assert [point[:2] for point in history(client, parent)] == [("val/ece", 1), ("val/nll", 1)]


def test_half_a_line_is_waited_for(by_hand):
    by_hand.advance()
    with by_hand.ledger.path.open("ab") as stream:
        stream.write(b'{"event": "tri')
        stream.flush()
        assert by_hand.mirror.pending > 0 and not by_hand.mirror.advance()


def test_a_run_ends_although_its_artifacts_cannot_be_logged(by_hand, tmp_path, caplog):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    picture = tmp_path / "reliability.png"
    picture.write_bytes(b"png")
    by_hand.started(0)
    by_hand.finished(0, diagram=str(picture))
    with caplog.at_level(logging.WARNING, logger="ddcal"):
        for _ in range(ARTIFACT_ATTEMPTS - 1):  # a server that starts again takes them the next time
            with pytest.raises(OSError):
                by_hand.advance()
        children = by_hand.advance()[2]
    assert children["tiny-0000"].info.status == "FINISHED"
    assert len(caplog.records) == 1 and "takes no artifacts" in caplog.text


def test_a_database_is_there_in_full_or_not_at_all(by_hand, monkeypatch):
    """Killed as MLflow makes its tables, which takes it a second."""

    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    database = by_hand.directory / "mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr("ddcal.study.mlflow.client._EMPTY", {})
        patch.setattr(mlflow.MlflowClient, "search_experiments", killed)
        with pytest.raises(KeyboardInterrupt):
            by_hand.mirror.advance()
    assert not database.exists() and not list(by_hand.directory.glob(".mlflow.db*"))
    by_hand.advance(by_hand.new_mirror())
    assert database.exists() and not list(by_hand.directory.glob(".mlflow.db*"))


def test_two_studies_make_one_database(tiny_study, tmp_path):
    studies = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        studies.append(Study(tmp_path / name, tiny_study(name=name)))
    uri, artifacts = f"sqlite:///{tmp_path}/mlflow.db", (tmp_path / "artifacts").as_uri()
    mirrors = [Mirror(s.directory, uri, s.study.name, artifacts) for s in studies]
    threads = [threading.Thread(target=mirror.advance) for mirror in mirrors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for study, mirror in zip(studies, mirrors, strict=True):
        while mirror.advance():
            pass
        assert runs_of(mirror.uri, study.study.name)[1].info.run_name == study.study.name
        study.ledger.close()


# Whole studies


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("none", None), (None, "sqlite:///{root}/mlflow.db"), ("http://127.0.0.1:5000", "http://127.0.0.1:5000")],
)
def test_the_default_database_lies_in_the_output_root(tiny_study, tmp_path, uri, expected):
    study = tiny_study(tracking={"uri": uri})
    assert tracking_uri(study, tmp_path) == (expected and expected.format(root=tmp_path))


def test_without_tracking_nothing_is_written(tiny_study, tmp_path):
    assert make_mirror(tiny_study(), tmp_path / "tiny") is None
    run_study(tiny_study(search={"trials": 1}), output=tmp_path, debug=True)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "store"}
    assert "nothing to send" in sync_study(tmp_path / "tiny")


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def impatient(monkeypatch):
    """The mirror tries again soon, and the end of a study does not wait long."""
    monkeypatch.setattr(following, "RETRY_SECONDS", (0.1,))
    monkeypatch.setattr(following, "CLOSE_SECONDS_FAILING", 1.0)


@pytest.mark.parametrize(
    "code", [None, 401, 403, pytest.param(500, marks=pytest.mark.slow)], ids=["absent", "401", "403", "500"]
)
def test_a_server_that_refuses_costs_the_study_a_sentence_and_gets_everything_later(
    tiny_study, tmp_path, port, impatient, caplog, code
):
    study = tiny_study(tracking={"uri": f"http://127.0.0.1:{port}"})
    with caplog.at_level(logging.WARNING, logger="ddcal"), refusing(port, code) if code else contextlib.nullcontext():
        results = run_study(study, output=tmp_path, debug=True)
        assert [trial.outcome for trial in results.records] == ["complete"] * 2
        (record,) = [record for record in caplog.records if record.name == "ddcal.study.mlflow.follower"]
        assert f"http://127.0.0.1:{port}" in record.getMessage() and "the study goes on" in record.getMessage()
        assert results.unsent == results.directory.joinpath(LEDGER).stat().st_size
        with pytest.raises(TrackingError, match=rf"tracking\.uri: .*127\.0\.0\.1:{port}.*0 events were sent"):
            sync_study(results.directory)
    if code == 500:  # one real server is enough
        with mlflow_server(tmp_path, port) as uri:
            assert "has everything (" in sync_study(results.directory)
            client, parent, children = assert_exactly_once(uri, results.directory)
            assert artifacts(client, parent) == {"study.yaml", "trials.csv", "pareto.csv", "summary.json"}
            for run in children.values():
                assert artifacts(client, run) == {"config.yaml", "metrics.json", "reliability.png", "distilled.png"}
            assert "(0 events were new)" in sync_study(results.directory)
            assert_exactly_once(uri, results.directory)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_has_everything_once(
    tiny_study, tmp_path, port, impatient, monkeypatch
):
    for patience in ("CLOSE_SECONDS", "CLOSE_SECONDS_FAILING"):  # the server answers slowly on a busy machine
        monkeypatch.setattr(following, patience, 600.0)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        uri = first.enter_context(mlflow_server(tmp_path, port))

        def outage(trial):
            if trial.number == 1:  # wherever the mirror stands by now
                first.close()
            if trial.number == 4:
                stack.enter_context(mlflow_server(tmp_path, port))

        study = tiny_study(search={"trials": 6}, tracking={"uri": uri})
        results = run_study(study, output=tmp_path / "runs", debug=True, hooks=Hooks(on_finished=outage))
        assert results.unsent == 0
        assert_exactly_once(uri, results.directory)


@pytest.mark.slow
def test_what_is_not_sent_is_sent_when_the_study_is_resumed(tiny_study, tmp_path, impatient):
    """MLflow's database cannot be made until a folder takes a file's place."""
    (tmp_path / "there").write_text("a file")
    study = tiny_study(tracking={"uri": f"sqlite:///{tmp_path}/there/mlflow.db"})
    results = run_study(study, output=tmp_path / "runs", debug=True)
    assert results.unsent > 0 and len(results.records) == 2
    (tmp_path / "there").unlink()
    results = resume_study(results.directory, trials=3, debug=True)
    assert results.unsent == 0
    assert_exactly_once(study.tracking.uri, results.directory)


def test_the_runs_of_a_killed_driver_are_ended_by_sync(tiny_study, tmp_path):
    """The ledger of a driver that was killed in its second trial, mirrored up to somewhere."""
    study = tiny_study(tracking={})
    whole = run_study(study, output=tmp_path / "whole", debug=True)
    directory = tmp_path / "killed" / "tiny"
    directory.mkdir(parents=True)
    lines = (whole.directory / LEDGER).read_bytes().splitlines(keepends=True)
    second = next(i for i, line in enumerate(lines) if b'"trial_started"' in line and b'"number": 1' in line)
    (directory / LEDGER).write_bytes(b"".join(lines[: second + 1]))
    mirror = make_mirror(study, directory)
    for _ in range(3):
        mirror.advance()
    for said in (f"({second - 2} events were new)", "(0 events were new)"):
        assert said in sync_study(directory)
        _, _, children = assert_exactly_once(f"sqlite:///{tmp_path}/killed/mlflow.db", directory, "KILLED")
        assert {key: run.info.status for key, run in children.items()} == {
            "tiny-0000": "FINISHED",
            "tiny-0001": "KILLED",
        }


def test_a_study_that_runs_is_not_synced_by_another(tiny_study, tmp_path):
    def sync(trial):
        with pytest.raises(BadInput, match=f"in use by process {os.getpid()}"):
            sync_study(tmp_path / "tiny")
        refused.append(trial.number)

    refused = []
    run_study(tiny_study(tracking={}), output=tmp_path, debug=True, hooks=Hooks(on_finished=sync))
    assert refused == [0, 1]
    assert_exactly_once(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "tiny")


def test_a_run_of_an_earlier_version_goes_on_in_its_own_steps(by_hand):
    """Its points are at thousandths of the trial: half of them in percent would be another curve."""
    by_hand.started(0)
    by_hand.points(0, 0.5)
    client, _, children = by_hand.advance()
    client.delete_tag(children["tiny-0000"].info.run_id, "ddcal.step")  # as an earlier version has left it
    by_hand.points(0, 1.0)
    client, _, children = by_hand.advance(Mirror(by_hand.directory, by_hand.mirror.uri, "tiny"))
    assert [point[1] for point in history(client, children["tiny-0000"]) if point[0] == "val/nll"] == [50, 1000]


def test_the_winners_mark_moves_to_another_trial(by_hand):
    for number in (0, 1):
        by_hand.started(number)
        by_hand.finished(number)
    by_hand.ended(finished=2)
    _, _, children = by_hand.advance()
    assert [children[f"tiny-000{n}"].data.tags.get("ddcal.winner") for n in (0, 1)] == ["winner", None]
    by_hand.ledger.append(StudyResumed, study=by_hand.study.model_dump(mode="json"))
    best = {"trial_key": "tiny-0001", "metrics": {"val/nll": 0.1}}
    by_hand.ledger.append(StudyFinished, seconds=2.0, interrupted=False, finished=3, best=best)
    _, parent, children = by_hand.advance()
    assert [children[f"tiny-000{n}"].data.tags.get("ddcal.winner") for n in (0, 1)] == [None, "winner"]
    assert parent.data.tags["ddcal.winner"] == "tiny-0001" and parent.data.metrics["val/nll"] == 0.1


def test_a_cursor_knows_its_own_file(tmp_path):
    """Read again at every event it would cost more than the event where a thousand trials are open."""
    (tmp_path / LEDGER).write_text("{}\n{}\n")
    cursor = Cursor(offset=3, parent="a" * 32, runs={"0": {"run": "b" * 32, "data": {"name": "digits"}}})
    assert not cursor.is_as_written(tmp_path)
    cursor.write(tmp_path)
    assert cursor.is_as_written(tmp_path) and not cursor.is_as_written(tmp_path), "an event may have failed since"
    assert Cursor.read(tmp_path) == cursor
    cursor.write(tmp_path)
    Cursor(offset=3, parent="c" * 32).write(tmp_path)
    assert not cursor.is_as_written(tmp_path), "another was here"
    cursor.write(tmp_path)
    (tmp_path / LEDGER).write_text("{}")
    assert not cursor.is_as_written(tmp_path), "the ledger is shorter"


def test_of_corrupted_images_no_metric_is_a_chart():
    assert all(is_metric(name, ()) for name in ("test/ece", "test/raw/nll", "test/ts_val/accuracy", "val/ece"))
    shifted = ("test/shift/noise-3/ece", "test/raw/shift/all/nll")
    assert not any(is_metric(name, ()) for name in shifted) and is_metric(shifted[0], shifted)
