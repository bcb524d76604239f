"""Studies on a real Ray runtime, with a real MLflow and real digits."""

import functools
import os
import signal
import threading
import time

import mlflow
import pytest
from optuna.trial import TrialState

from ddcal.config.metrics import VAL_METRICS
from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import read_ledger
from ddcal.study.record.lock import LOCK
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.in_turn import opening
from ddcal.study.run.runner import Hooks, resume_study
from ddcal.study.search.search import StudySearch

UNEQUAL = ("seconds", "log", "saved_seconds", "waited_seconds", "node")

pytestmark = pytest.mark.usefixtures("ray_session")


def comparable(results):
    """The table of trials without the columns that differ from run to run."""
    table = results.trials
    return table.drop(columns=[name for name in table.columns if name.split("/")[0] in UNEQUAL]).to_dict("records")


def logged(results):
    """The ledger without its times: events, and points wherever they were reported together."""
    events = [
        (event.event, getattr(event, "number", None), getattr(event, "points", ()))
        for event in read_ledger(results.directory)
    ]
    points = [(number, point) for _, number, group in events for point in group]
    return [event[:2] for event in events if event[0] != "trial_points"], points


def search_space(**search):
    """Four trials, of which one raises."""
    return {
        "space": {
            "distill.ipc": {"choice": [1, 2, 500]},
            "calibrate.mask.ratio": {"uniform": [0.0, 0.9]},
        },
        "search": {"searcher": "tpe", "startup": 2, "trials": 4, "enqueue": [{"distill.ipc": 500}], **search},
    }


def runs_of(root):
    """Every run of the study's experiment by trial key; the parent's key is None."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    keyed = {run.data.tags.get("ddcal.trial_key"): run for run in runs}
    assert len(keyed) == len(runs), "one run a trial"
    return client, keyed


@pytest.mark.slow
def test_ray_and_debug_give_the_same_trials(tiny_study, tmp_path):
    study = tiny_study(**search_space(concurrency=1))
    debug = run_study(study, output=tmp_path / "debug", debug=True)
    on_ray = run_study(study, output=tmp_path / "ray")
    assert [trial.outcome for trial in on_ray.records] == ["failed", "complete", "complete", "complete"]
    first, second = comparable(debug), comparable(on_ray)
    assert repr(first) == repr(second)  # NaN is NaN here
    assert on_ray.best.number == debug.best.number
    assert logged(on_ray) == logged(debug)
    failed = on_ray.records[0]
    assert "500" in failed.error and "Traceback" in (on_ray.directory / failed.log).read_text()


def test_two_trials_at_a_time_finish_all(tiny_study, tmp_path):
    study = tiny_study(**search_space(concurrency=2, trials=6), tracking={})
    seen = []
    results = run_study(study, output=tmp_path, hooks=Hooks(on_finished=seen.append))
    assert len(seen) == len(results.records) == 6
    for trial in results.records:
        assert trial.outcome == ("failed" if trial.values["distill.ipc"] == 500 else "complete")
    _, runs = runs_of(tmp_path)
    assert {key: run.info.status for key, run in runs.items()} == {
        None: "FINISHED",
        **{trial.trial_key: "FAILED" if trial.outcome == "failed" else "FINISHED" for trial in results.records},
    }


@pytest.mark.parametrize("scheduler", ["asha", pytest.param("moasha", marks=pytest.mark.slow)])
def test_a_scheduler_prunes_in_each_stage_and_everybody_is_told(tiny_study, tmp_path, scheduler):
    """One trial leaves its images noise, another trains too slowly; full and real data are compared with no other."""
    good = {"distill.backbone": "dc", "distill.matching.image_lr": 1.0, "train.lr": 0.1}
    enqueue = [
        good,
        good | {"distill.matching.image_lr": 1e-3},
        good | {"train.lr": 1e-6},
        {"distill.backbone": "full", "train.lr": 1e-6},
        {"distill.backbone": "real", "train.lr": 1e-6},
    ]
    study = tiny_study(
        base={
            "distill": {"iterations": 8, "ipc": 1, "matching.real_batch": 16, "probe.epochs": 5},
            "train.epochs": 12,
        },
        space={
            "distill.backbone": {"choice": ["dc", "full", "real"]},
            "distill.matching.image_lr": {"loguniform": [1e-3, 1.0], "when": {"distill.backbone": ["dc"]}},
            "train.lr": {"loguniform": [1e-6, 1.0]},
        },
        objectives={"val/nll": "min", "val/accuracy": "max"},
        search={"trials": len(enqueue), "enqueue": enqueue},
        scheduler={"name": scheduler} | ({"metric": "val/nll"} if scheduler == "asha" else {}),
        tracking={},
    )
    results = run_study(study, output=tmp_path)
    outcomes = [trial.outcome for trial in results.records]
    assert outcomes == ["complete", "pruned", "pruned", "complete", "complete"]
    stages = {number: [] for number in range(5)}
    for event in read_ledger(results.directory):
        if event.event == "trial_points":
            stages[event.number] += [point["stage"] for point in event.points]
    assert set(stages[1]) == {"distill"} and stages[2][-1] == "train" and "distill" not in stages[3]
    states = [trial.state for trial in StudySearch(study, results.directory).optuna.get_trials()]
    assert states == [TrialState.PRUNED if outcome == "pruned" else TrialState.COMPLETE for outcome in outcomes]
    client, runs = runs_of(tmp_path)
    for trial in results.records:
        run = runs[trial.trial_key]
        steps = {metric.step for metric in client.get_metric_history(run.info.run_id, "val/nll")}
        if trial.outcome == "pruned":
            assert run.info.status == "KILLED" and max(steps) < 100
            assert not any(name.startswith("test/") for name in run.data.metrics)
        else:
            assert run.info.status == "FINISHED" and max(steps) == 100


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_trial_with_its_cause(tiny_study, tmp_path):
    study = tiny_study(
        space={"train.lr": {"choice": [0.1, 1e30]}},
        objectives={"val/nll": "min"},
        search={"trials": 2, "enqueue": [{"train.lr": 1e30}, {"train.lr": 0.1}]},
        scheduler={"name": "asha", "grace": 0.5},
    )
    results = run_study(study, output=tmp_path)
    failed, complete = results.records
    assert failed.outcome == "failed" and "diverged" in failed.error and "lower train.lr (1e+30)" in failed.error
    assert failed.progress == 0.5, "that of the distilled set's last point"
    assert failed.metrics.keys() == set(VAL_METRICS) and "Traceback" in (results.directory / failed.log).read_text()
    assert complete.outcome == "complete" and [trial.number for trial in results.pareto] == [1]


def test_a_distill_study(tiny_study, tmp_path):
    study = tiny_study(trial="distill", space={"distill.ipc": {"choice": [1, 2]}}, search={"trials": 2})
    results = run_study(study, output=tmp_path)
    for trial in results.records:
        assert trial.outcome == "complete" and list(trial.keys) == ["distill"]
        assert set(trial.metrics) == set(VAL_METRICS)


@pytest.mark.slow
def test_an_interrupted_study_is_closed(tiny_study, tmp_path):
    def interrupt(trial):
        raise KeyboardInterrupt

    study = tiny_study(search={"trials": 6, "concurrency": 2}, tracking={})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, hooks=Hooks(on_finished=interrupt))
    results = load_study(tmp_path / "tiny")
    assert sum(trial.outcome is not None for trial in results.records) == 1
    assert {trial.outcome for trial in results.records} <= {"complete", None} and results.interrupted
    _, runs = runs_of(tmp_path)
    assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED"} and runs[None].info.status == "KILLED"


@pytest.mark.slow
def test_ctrl_c_ends_the_study_and_its_runs(tiny_study, tmp_path):
    """Tune catches SIGINT and returns as if all were well."""

    def press(trial):
        os.kill(os.getpid(), signal.SIGINT)

    study = tiny_study(search={"trials": 8}, tracking={})
    with pytest.raises(KeyboardInterrupt):
        run_study(study, output=tmp_path, hooks=Hooks(on_finished=press))
    results = load_study(tmp_path / "tiny")
    assert 1 <= len(results.records) < 8 and results.records[0].outcome == "complete"
    statuses = {key: run.info.status for key, run in runs_of(tmp_path)[1].items()}
    assert statuses == {None: "KILLED"} | {
        trial.trial_key: "FINISHED" if trial.outcome else "KILLED" for trial in results.records
    }
    assert not (tmp_path / "tiny" / "driver.lock").exists()
    resumed = resume_study(tmp_path / "tiny")
    assert [trial.outcome for trial in resumed.records] == ["complete"] * 8
    assert {run.info.status for run in runs_of(tmp_path)[1].values()} == {"FINISHED"}


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint(tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "StudyDriver", functools.partial(StudyDriver, checkpoint_seconds=0.1))
    study = tiny_study(
        base={"train.epochs": 1500, "train.networks": 2},
        space={"calibrate.mask.ratio": {"choice": [0.5]}},
        search={"trials": 1},
        tracking={},
    )
    undisturbed = run_study(study.model_copy(update={"tracking": tiny_study().tracking}), output=tmp_path / "a")
    killed = []

    def kill():
        partial = tmp_path / "b" / "store" / "partial"
        log = tmp_path / "b" / "tiny" / "logs" / "tiny-0000.log"
        while not killed and time.monotonic() < deadline:
            if log.is_file() and "train: begins" in log.read_text() and any(partial.glob("*.pt")):
                time.sleep(0.3)
                killed.extend(pid for pid in ray_workers("ray::DDNNTrainable"))
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    deadline = time.monotonic() + 600
    killer = threading.Thread(target=kill)
    killer.start()
    results = run_study(study, output=tmp_path / "b")
    killer.join()
    assert len(killed) == 1
    log = (tmp_path / "b" / "tiny" / "logs" / "tiny-0000.log").read_text()
    assert log.count("trial tiny-0000 begins") == 2 and "train: goes on from its checkpoint" in log
    assert results.records[0].outcome == "complete"
    assert results.records[0].metrics == undisturbed.records[0].metrics
    assert results.records[0].keys == undisturbed.records[0].keys
    client, runs = runs_of(tmp_path / "b")
    assert set(runs) == {None, "tiny-0000"} and runs["tiny-0000"].info.status == "FINISHED"
    for name in ("val/nll", "val/ece", "test/nll"):
        steps = [metric.step for metric in client.get_metric_history(runs["tiny-0000"].info.run_id, name)]
        assert len(steps) == len(set(steps)), "no step is logged twice"


def ray_workers(title):
    """Pids of the worker processes below this process's own raylet whose title begins with ``title``."""
    from ray._private.utils import psutil  # the copy that Ray brings

    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.cmdline() and process.cmdline()[0].startswith(title)
    ]


def test_who_looked_before_another_driver_came_begins_nothing(ray_session, tiny_study, tmp_path):
    """While Ray starts, seconds or minutes, the other one begins and ends; each is refused, and all is as it was."""
    study, directory = tiny_study(search={"searcher": "random", "trials": 1}), tmp_path / "tiny"

    def others(work):
        return Hooks(on_start=lambda start: work())

    with pytest.raises(BadInput, match="since this one looked: give the same command again"):
        run_study(study, output=tmp_path, hooks=others(lambda: run_study(study, output=tmp_path, debug=True)))
    assert len(load_study(directory).records) == 1 and not (directory / LOCK).exists()
    with pytest.raises(BadInput, match="since this one looked: give the same command again"):
        resume_study(directory, trials=2, hooks=others(lambda: resume_study(directory, trials=3, debug=True)))
    results = load_study(directory)
    assert (len(results.records), results.sessions) == (3, 2) and not (directory / LOCK).exists()
