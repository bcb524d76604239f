"""An MLflow server that dies, is slow, or fails now and then: the study does not care, and MLflow gets everything."""

import contextlib
import functools
import threading
import time

import pytest
from nodes import free_port
from servers import mlflow_server, proxy
from test_mirror import artifacts, assert_exactly_once, runs_of

from ddcal.study import run_study
from ddcal.study.mlflow import follower as following
from ddcal.study.mlflow.cursor import Cursor
from ddcal.study.mlflow.mirror import ATTEMPTS
from ddcal.study.mlflow.sync import sync_study
from ddcal.study.run.runner import Hooks

FREE = ("mlflow.parentRunId", "ddcal.study_id", "ddcal.saved_", "ddcal.waited_", "ddcal.worked_seconds")


def everything(uri):
    """All that MLflow holds but ids and times, by trial key; the parent's key is None."""
    client, parent, children = runs_of(uri)
    held = {}
    for key, run in {None: parent, **children}.items():
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith(FREE)}
        points = sorted(
            (name, point.step, point.value)
            for name in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, name)
        )
        data = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
        held[key] = (run.info.status, run.info.run_name, run.data.params, tags, points, data, artifacts(client, run))
    return held


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(following, "RETRY_SECONDS", (0.1,))


def kill_twice(folder, port, server, directory, stack, kills, over):
    """Kill the server as soon as it has something new, start it again after a second, and once more."""
    for _ in range(2):
        before = Cursor.read(directory).offset
        while Cursor.read(directory).offset <= before:
            if over.wait(0.01):
                return
        kills.append(before)
        server.close()
        time.sleep(1.0)
        server = stack.enter_context(contextlib.ExitStack())
        server.enter_context(mlflow_server(folder, port))


def wait_for_kills(kills, trial):
    """Hold the study before its last trials until the server was killed twice: on a busy machine it starts slowly."""
    deadline = time.monotonic() + 600
    while trial.number == 12 and len(kills) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
def test_a_server_that_is_killed_twice_holds_what_an_undisturbed_one_does(tiny_study, tmp_path, impatient, capsys):
    """Run for run, metric for metric. The study's time is printed and not asserted."""
    seconds = {}
    held = {}
    for name in ("undisturbed", "killed"):
        folder, port = tmp_path / name, free_port()
        folder.mkdir()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(contextlib.ExitStack())
            uri = server.enter_context(mlflow_server(folder, port))
            search = {"searcher": "random", "trials": 16}
            study = tiny_study(base={"train.epochs": 600}, search=search, tracking={"uri": uri})
            directory = folder / "runs" / "tiny"
            directory.mkdir(parents=True)
            kills, over = [], threading.Event()
            arguments = (folder, port, server, directory, stack, kills, over)
            killer = threading.Thread(target=kill_twice, args=arguments) if name == "killed" else None
            if killer:
                killer.start()
            hooks = Hooks(on_finished=functools.partial(wait_for_kills, kills)) if killer else Hooks()
            results = run_study(study, output=directory.parent, debug=True, hooks=hooks)
            if killer:
                over.set()
                killer.join()
                assert len(kills) == 2
                sync_study(directory)  # the study may have ended before the server was there again
            seconds[name] = sum(trial.seconds for trial in results.records[1:])  # the first one imports
            held[name] = everything(uri)
            assert_exactly_once(uri, directory)
    with capsys.disabled():
        print(f"\nseconds of the trials, server undisturbed and killed twice: {seconds}")
    assert held["killed"] == held["undisturbed"]


@pytest.mark.slow
def test_a_slow_server_delays_nothing_and_gets_everything_later(tiny_study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(following, "CLOSE_SECONDS", 1.0)
    monkeypatch.setattr(following, "CLOSE_SECONDS_MORE", 2.0)
    with mlflow_server(tmp_path, free_port()) as direct, proxy(direct, delay=0.5) as uri:
        study = tiny_study(search={"searcher": "random", "trials": 4}, tracking={"uri": uri})
        results = run_study(study, output=tmp_path / "runs", debug=True)
        assert [trial.outcome for trial in results.records] == ["complete"] * 4
        assert results.unsent > 0, "it was not waited for"
        began = time.monotonic()
        assert "has everything (" in sync_study(results.directory)  # the mirror's thread may be at an event still
        with capsys.disabled():
            print(f"\nsync behind 0.5 s a call: {time.monotonic() - began:.0f} s")
        assert_exactly_once(direct, results.directory)
        assert "(0 events were new)" in sync_study(results.directory)
        assert_exactly_once(direct, results.directory)


@pytest.mark.slow
def test_a_server_that_reads_but_cannot_write_loses_nothing(tiny_study, tmp_path, impatient, monkeypatch):
    """A full disk, for example: longer than an event is tried that MLflow refuses for good."""
    monkeypatch.setattr(following, "CLOSE_SECONDS_FAILING", 2.0)
    failures = []

    def broken(path):
        if path.endswith("/runs/log-batch") and not failures.count("over"):
            failures.append(path)
        return "over" not in failures and path.endswith("/runs/log-batch")

    with mlflow_server(tmp_path, free_port()) as direct, proxy(direct, broken=broken) as uri:
        study = tiny_study(tracking={"uri": uri})
        results = run_study(study, output=tmp_path / "runs", debug=True)
        assert len(failures) > 2 * ATTEMPTS and results.unsent > 0
        failures.append("over")
        sync_study(results.directory)
        assert_exactly_once(direct, results.directory)
