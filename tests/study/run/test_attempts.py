"""The driver by hand: trials that run out of GPU memory, and trials that wait for a measurement. No trial runs."""

import csv

import pytest

from ddcal.pipeline import Environment
from ddcal.study import load_study
from ddcal.study.gpu.packing import MIB
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.record.ledger import read_ledger
from ddcal.study.record.lock import DriverLock
from ddcal.study.run.driver import StudyDriver

SPACE = {"distill.ipc": {"choice": [1, 2]}, "seed": {"choice": [0, 1, 2]}}
COMPLETE = {"val/ece": 0.1, "val/accuracy": 0.5, "val/nll": 1.0}


@pytest.fixture
def drive(tiny_study, tmp_path):
    """drive([(ipc, seed), …], gpus=…, **resources) -> a driver; again, on what it has left, with resume=True."""
    drivers = []

    def begin(first, *, gpus=1.0, resume=False, trial="ddnn", **resources):
        if resume:
            drivers[-1].ledger.close()
            drivers[-1]._lock.release()
        enqueue = [{"distill.ipc": ipc, "seed": seed} for ipc, seed in first]
        study = tiny_study(
            trial=trial,
            space=SPACE,
            search={"trials": len(first), "concurrency": 4, "enqueue": enqueue},
            resources=resources,
        )
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        earlier = load_study(folder) if resume else None
        lock = DriverLock(folder)
        drivers.append(
            StudyDriver(study, folder, Environment("cpu", 1), Tracking(None), lock, earlier=earlier, gpus=gpus)
        )
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.ledger.close()


def end(driver, assignment, outcome="complete", peaks=None):
    keys = driver._running[assignment.number].keys
    for stage, key in keys.items() if outcome == "complete" else ():
        driver.store.publish(stage, key, lambda folder: {})
    record = {
        "outcome": outcome,
        "metrics": COMPLETE if outcome == "complete" else {},
        "keys": keys,
        "cache_hits": [],
        "stage_seconds": {},
        "seconds": 1.0,
        "error": None if outcome == "complete" else "CUDA out of memory",
        "fingerprint": None,
    }
    measured = {"total": 1000 * MIB, "context": 40 * MIB, "peaks": {s: p * MIB for s, p in (peaks or {}).items()}}
    driver.on_result(assignment.number, {"points": [], "gpu": [measured] if peaks else [], "records": [record]})


def events(driver, *kinds):
    return [event for event in read_ledger(driver.directory) if event.event in kinds]


def point(progress, nll):
    return {"progress": progress, "stage": "distill", "complete": False, "val/nll": nll, "val/ece": 0.2}


GROW = {"gpu": 0.25, "on_oom": "grow"}


def test_a_trial_that_runs_out_of_memory_is_tried_once_more_with_more(drive):
    driver = drive([(1, 0), (2, 0)], **GROW)
    first = driver.next_assignment()
    driver.on_result(first.number, {"points": [point(0.125, 2.0)]})
    other = driver.next_assignment()
    assert (first.gpu, first.attempt, other.gpu) == (0.25, 1, 0.25)
    end(driver, other)
    assert not driver.exhausted and driver.next_assignment() is None, "the first may need another attempt"
    end(driver, first, "out_of_memory")
    assert driver.running == 0 and driver.finished == 1 and not driver.exhausted
    again = driver.next_assignment()
    assert (again.number, again.trial_key, again.gpu, again.attempt) == (0, first.trial_key, 0.3333, 2)
    driver.on_result(0, {"points": [point(0.125, 2.0), point(0.25, 1.5)]})
    end(driver, again)
    assert driver.exhausted
    assert [event.gpu for event in events(driver, "trial_started")] == [0.25, 0.25, 0.3333]
    (failed,) = events(driver, "trial_attempt_failed")
    assert {name: getattr(failed, name) for name in ("number", "attempt", "outcome", "error", "gpu", "next_gpu")} == {
        "number": 0, "attempt": 1, "outcome": "out_of_memory", "error": "CUDA out of memory", "gpu": 0.25,
        "next_gpu": 0.3333,
    }  # fmt: skip
    assert [p["progress"] for e in events(driver, "trial_points") for p in e.points] == [0.125, 0.25]
    trial = load_study(driver.directory).records[0]
    assert (trial.outcome, trial.attempt, trial.gpu, trial.progress) == ("complete", 2, 0.3333, 0.25)


def test_the_second_time_it_is_recorded(drive):
    driver = drive([(1, 0)], **GROW)
    end(driver, driver.next_assignment(), "out_of_memory")
    end(driver, driver.next_assignment(), "out_of_memory")
    assert driver.exhausted and driver.next_assignment() is None
    trial = load_study(driver.directory).records[0]
    assert (trial.outcome, trial.attempt, trial.gpu) == ("out_of_memory", 2, 0.3333)


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        ({"gpu": 0.25}, 1.0),
        ({"gpu": 0.25, "on_oom": "record"}, 1.0),
        ({"gpu": 1.0, "on_oom": "grow"}, 1.0),
        ({"gpu": 0.25, "on_oom": "grow"}, None),
        ({"gpu": 0.0, "on_oom": "grow"}, 0.0),
    ],
    ids=["by default", "as asked", "a whole GPU", "debug mode", "the CPU"],
)
def test_where_nothing_can_grow_it_is_recorded(drive, resources, gpus):
    driver = drive([(1, 0)], gpus=gpus, **resources)
    end(driver, driver.next_assignment(), "out_of_memory")
    assert driver.exhausted and driver.finished == 1
    assert load_study(driver.directory).records[0].outcome == "out_of_memory"


def test_other_failures_are_not_tried_again(drive):
    driver = drive([(1, 0)], **GROW)
    end(driver, driver.next_assignment(), "failed")
    assert driver.exhausted and load_study(driver.directory).records[0].attempt == 1


@pytest.mark.parametrize("handed_out", [False, True], ids=["between the attempts", "in the second attempt"])
def test_a_killed_driver_forgets_neither_the_fraction_nor_that_it_was_the_last(drive, handed_out):
    driver = drive([(1, 0)], **GROW)
    end(driver, driver.next_assignment(), "out_of_memory")
    if handed_out:
        assert driver.next_assignment().gpu == 0.3333
    driver = drive([(1, 0)], resume=True, **GROW)
    again = driver.next_assignment()
    assert (again.number, again.gpu, again.attempt) == (0, 0.3333, 3 if handed_out else 2)
    end(driver, again, "out_of_memory")
    assert driver.exhausted and load_study(driver.directory).records[0].outcome == "out_of_memory"


@pytest.mark.parametrize("outcome", ["pruned", "killed", "failed", "out_of_memory"])
def test_a_trial_that_did_not_come_to_its_end_keeps_its_last_point(drive, outcome):
    driver = drive([(1, 0), (2, 0)])
    first = driver.next_assignment()
    driver.on_result(0, {"points": [point(0.125, 2.0), point(0.25, 1.5)]})
    if outcome in ("pruned", "killed"):
        driver.on_stopped(0, outcome, "why")
    else:
        end(driver, first, outcome)
    end(driver, driver.next_assignment())
    results = driver.close()
    trial = results.records[0]
    assert (trial.outcome, trial.progress, trial.metrics) == (outcome, 0.25, {"val/nll": 1.5, "val/ece": 0.2})
    assert trial.error and trial.log.endswith("tiny-0000.log")
    assert [one.number for one in results.pareto] == [1] and results.best.number == 1
    with (results.directory / "trials.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert (row["outcome"], row["val/nll"], row["val/accuracy"], row["progress"]) == (outcome, "1.5", "", "0.25")
    assert row["error"] and row["log"] == trial.log


ALL = {"distill": 300, "train": 100, "calibrate": 10}


def test_the_first_of_a_kind_has_a_whole_gpu_and_measures_for_the_others(drive):
    driver = drive([(1, 0), (1, 1), (2, 0), (1, 2), (2, 1)], gpu="auto")
    first = driver.next_assignment()
    assert (first.number, first.gpu, first.context) == (0, 1.0, None)
    second = driver.next_assignment()
    assert (second.number, second.gpu) == (2, 1.0), "1 waits to know what it needs; 2 is of another kind"
    assert driver.next_assignment() is None
    end(driver, first, peaks=ALL)
    packed = [driver.next_assignment() for _ in range(2)]
    (cached,) = driver._waiting
    for stage, key in cached.keys.items():
        driver.store.publish(stage, key, lambda folder: {})
    driver._hold_back.forget(cached.keys.values())  # it remembers for half a second what was missing
    packed.append(driver.next_assignment())
    assert [(a.number, a.gpu, a.context) for a in packed] == [
        (1, 0.5, 40 * MIB), (3, 0.5, 40 * MIB), (4, 0.5, 40 * MIB),
    ], "the last one is in the store and needs nothing"  # fmt: skip
    for assignment in (second, *packed):
        end(driver, assignment, peaks=ALL | {"distill": 600} if assignment.number == 2 else None)
    results = driver.close()
    assert [trial.gpu for trial in results.records] == [1.0, 0.5, 1.0, 0.5, 0.5]
    table = results.summary()["packing"]
    assert {(row["stage"], row["group"].get("distill.ipc"), row["peak_mib"], row["fraction"]) for row in table} == {
        ("distill", 1, 300, "1/2"), ("train", 1, 100, "1/6"), ("calibrate", 1, 10, "1/8"),
        ("distill", 2, 600, "1"), ("train", 2, 100, "1/6"), ("calibrate", 2, 10, "1/8"),
    }  # fmt: skip


def test_only_what_a_trial_computes_counts(drive):
    driver = drive([(1, 0), (1, 1)], gpu="auto")
    end(driver, driver.next_assignment(), peaks=ALL)
    trial = driver._ask()
    driver.store.publish("distill", trial.keys["distill"], lambda folder: {})
    driver._waiting.append(trial)
    assert driver.next_assignment().gpu == 0.1666, "train needs the most of what is left"


def test_trials_that_end_with_the_distilled_set_share_a_gpu(drive):
    """What they never compute is never measured, and nobody waits for it."""
    driver = drive([(1, 0), (1, 1), (1, 2)], trial="distill", gpu="auto")
    first = driver.next_assignment()
    assert list(driver._running[first.number].keys) == ["distill"]
    end(driver, first, peaks={"distill": 300})
    assert [driver.next_assignment().gpu for _ in range(2)] == [0.5, 0.5]


def test_on_a_free_gpu_another_trial_measures_beside(drive):
    driver = drive([(1, 0), (1, 1), (1, 2)], gpus=2.0, gpu="auto")
    assert [driver.next_assignment().gpu for _ in range(2)] == [1.0, 1.0]
    assert driver.next_assignment() is None


def test_a_trial_that_measured_nothing_leaves_it_to_the_next(drive):
    driver = drive([(1, 0), (1, 1), (1, 2)], gpu="auto")
    end(driver, driver.next_assignment(), "failed")
    second = driver.next_assignment()
    assert second.gpu == 1.0
    end(driver, second, peaks=ALL)
    assert driver.next_assignment().gpu == 0.5


def test_measurements_outlive_the_driver(drive):
    driver = drive([(1, 0), (1, 1)], gpu="auto")
    end(driver, driver.next_assignment(), peaks=ALL)
    assert len(events(driver, "gpu_measured")) == 1
    driver = drive([(1, 0), (1, 1)], resume=True, gpu="auto")
    again = driver.next_assignment()
    assert (again.number, again.gpu, again.context) == (1, 0.5, 40 * MIB)
    end(driver, again, peaks=ALL)
    assert len(events(driver, "gpu_measured")) == 1, "no news"


def test_a_measured_trial_that_runs_out_of_memory_teaches_the_others(drive):
    driver = drive([(1, 0), (1, 1), (1, 2)], gpu="auto", on_oom="grow")
    end(driver, driver.next_assignment(), peaks=ALL)
    packed = driver.next_assignment()
    end(driver, packed, "out_of_memory", peaks={"distill": 460})
    again = driver.next_assignment()
    assert (packed.gpu, again.number, again.gpu) == (0.5, packed.number, 1.0)
    end(driver, again)
    assert driver.next_assignment().gpu == 1.0


def test_a_given_fraction_is_respected_whatever_was_measured(drive):
    driver = drive([(1, 0), (1, 1)], gpu=0.3)
    end(driver, driver.next_assignment(), peaks=ALL)
    second = driver.next_assignment()
    assert (second.gpu, second.context) == (0.3, 40 * MIB)


def test_in_this_process_a_trial_has_the_gpu_to_itself(drive):
    driver = drive([(1, 0), (1, 1)], gpus=None, gpu="auto")
    assert [driver.next_assignment().gpu for _ in range(2)] == [1.0, 1.0]
