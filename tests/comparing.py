"""Comparing a study that went through something with one that did not, and running `ddcal` as a process to kill."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import mlflow

from ddcal.study import load_study
from ddcal.study.record.ledger import read_ledger
from ddcal.study.search.search import StudySearch


def mirrored(uri, name="tiny"):
    """MLflow by trial key (None: the study): status, params, tags, and every metric point."""
    client = mlflow.MlflowClient(tracking_uri=uri if "://" in str(uri) else f"sqlite:///{uri}/mlflow.db")
    runs = {}
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        key = run.data.tags.get("ddcal.trial_key")
        assert key not in runs and run.info.status != "RUNNING", "one run a trial"
        points = sorted(
            (metric, point.step, point.value)
            for metric in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, metric)
        )
        runs[key] = (run.info.status, run.data.params, points)
    return runs


def trials_of(results):
    """What must not depend on interruptions; cache hits may, as a killed trial's stages are in the store."""
    free = {"cache_hits": (), "stage_seconds": None, "seconds": None, "log": None, "attempt": 1, "node": None}
    free |= {"stage_gpus": None, "waited_seconds": 0.0}
    return [replace(trial, **free) for trial in results.records]


def runs_of(results):
    """`mirrored`, from where the study was tracked."""
    tracking = results.study.tracking
    return mirrored(tracking.uri or results.directory.parent, tracking.experiment or results.study.name)


@functools.cache
def _expected_runs(expected):
    runs = runs_of(expected)
    del runs[None]
    return runs


def assert_same(results, expected):
    """The same trials, winner, MLflow runs and Optuna trials, whatever happened on the way."""
    assert trials_of(results) == trials_of(expected)
    assert results.best.number == expected.best.number
    there = runs_of(results)
    assert there.pop(None)[0] == "FINISHED"
    assert there == _expected_runs(expected)
    states = [trial.state for trial in StudySearch(results.study, results.directory).optuna.get_trials()]
    assert states == [t.state for t in StudySearch(expected.study, expected.directory).optuna.get_trials()]


def assert_each_trial_once(directory):
    """The ledger hands a trial out under one key and with the same values, however often, and ends it once."""
    keys, values, ends = {}, {}, Counter()
    for event in read_ledger(directory):
        if event.event == "trial_started":
            assert keys.setdefault(event.number, event.trial_key) == event.trial_key
            assert values.setdefault(event.number, event.values) == event.values
        elif event.event == "trial_finished":
            ends[event.number] += 1
    assert len(set(keys.values())) == len(keys)
    assert sorted(keys) == list(range(len(keys)))
    assert {number: ends[number] for number in keys} == dict.fromkeys(keys, 1)
    assert [trial.trial_key for trial in load_study(directory).records] == [keys[n] for n in sorted(keys)]


def start(*arguments, **environment):
    """`ddcal` in a process group of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-c", "from ddcal.cli import main; main()", *map(str, arguments)],
        env=inherited | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@contextlib.contextmanager
def running(*arguments, **environment):
    """`start`, and killed at the end if it still runs."""
    process = start(*arguments, **environment)
    try:
        yield process
    finally:
        kill(process)


def finish(process):
    """Wait for a `start`ed process; it must end well."""
    try:
        _, error = process.communicate(timeout=500)
    except BaseException:
        kill(process)
        raise
    assert process.returncode == 0, error.decode()[-2000:]


def kill(process):
    """SIGKILL to a process (its children see to themselves); nothing if it has ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.communicate()
