"""The driver by hand: which trial is handed out while others compute the stages that it needs. No trial runs."""

import json
import shutil

import pytest

from ddcal.pipeline import Environment
from ddcal.pipeline.stages import STAGES
from ddcal.store.lock_holder import Holder
from ddcal.study import load_study
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.references import referred_keys
from ddcal.study.run.driver import StudyDriver
from ddcal.study.search.search import AHEAD

SPACE = {"distill.ipc": {"choice": [1, 2, 3]}, "calibrate.mask.ratio": {"choice": [0.0, 0.25, 0.5]}}

RATIOS = [index / 100 for index in range(40)]
MANY = {"distill.ipc": {"choice": [1, 2]}, "calibrate.mask.ratio": {"choice": RATIOS}}


@pytest.fixture
def drive(tiny_study, tmp_path):
    """drive([(ipc, mask ratio), …], …) -> a driver that asks for these trials first."""
    drivers = []

    def begin(first=(), *, space=SPACE, trials=None, concurrency=3, earlier=None, searcher="tpe", **sections):
        enqueue = [{"distill.ipc": ipc, "calibrate.mask.ratio": ratio} for ipc, ratio in first]
        search = {"trials": trials or len(first), "concurrency": concurrency, "enqueue": enqueue}
        search |= {"searcher": searcher}
        folder = tmp_path / "tiny"
        folder.mkdir(exist_ok=True)
        study = tiny_study(space=space, search=search, **sections)
        driver = StudyDriver(study, folder, Environment("cpu", 1), Tracking(None), DriverLock(folder), earlier=earlier)
        drivers.append(driver)
        return driver

    yield begin
    for driver in drivers:
        driver.ledger.close()


def finish(driver, assignment, *, stored=True, outcome="complete", keys=None, node=None):
    """End a trial as its worker would, with its stages in the store."""
    keys = keys or driver._running[assignment.number].keys
    for stage, key in keys.items() if stored else ():
        driver.store.publish(stage, key, lambda folder: {"seconds": 1.0, "curve": []})
    metrics = {"val/ece": 0.1, "val/accuracy": 0.5, "val/nll": 1.0} if outcome == "complete" else {}
    record = {"outcome": outcome, "metrics": metrics, "keys": keys, "cache_hits": [], "stage_seconds": {}}
    driver.on_result(
        assignment.number,
        {"points": [], "records": [record | {"seconds": 1.0, "error": None, "fingerprint": None, "node": node}]},
    )


def numbers(driver, count):
    """The trials that are handed out if asked ``count`` times; None where it is better to wait."""
    handed_out = [driver.next_assignment() for _ in range(count)]
    return [None if assignment is None else assignment.number for assignment in handed_out]


def test_a_trial_waits_for_the_stage_that_another_computes_while_others_go(drive):
    driver = drive([(1, 0.0), (1, 0.25), (2, 0.0), (2, 0.25)])
    first = driver.next_assignment()
    assert first.number == 0
    assert numbers(driver, 3) == [2, None, None], "1 waits for 0, 3 waits for 2"
    assert not driver.exhausted and driver.running == 2
    finish(driver, first)
    assert numbers(driver, 2) == [1, None]
    assert [trial.number for trial in load_study(driver.directory).records] == [0, 1, 2]


def test_a_stage_that_failed_is_computed_by_the_next(drive):
    driver = drive([(1, 0.0), (1, 0.25), (1, 0.5)])
    first = driver.next_assignment()
    assert numbers(driver, 1) == [None]
    finish(driver, first, stored=False, outcome="failed")
    assert numbers(driver, 2) == [1, None]


def test_a_stage_in_the_store_is_waited_for_by_nobody(drive):
    driver = drive([(1, 0.0), (1, 0.25), (1, 0.5)])
    finish(driver, driver.next_assignment())
    assert numbers(driver, 2) == [1, 2], "they share distill and train, which are there"


def lease_elsewhere(driver, key):
    """A lease as another machine's trial leaves it."""
    path = driver.store.root / "leases" / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**vars(Holder.here()), "host": "elsewhere", "token": "t"}))
    return path


def test_a_stage_that_another_study_computes_is_waited_for_while_others_go(drive, monkeypatch):
    monkeypatch.setattr("ddcal.study.run.hold_back.ASK_SECONDS", 0.0)
    driver = drive([(1, 0.0), (2, 0.0), (2, 0.25)], concurrency=3)
    key = driver._ask().keys["distill"]  # of the first trial, which is asked for but not handed out
    driver._waiting.append(driver._proposals.make(0, {"distill.ipc": 1, "calibrate.mask.ratio": 0.0}))
    lease = lease_elsewhere(driver, key)
    first = driver.next_assignment()
    assert first.number == 1
    assert numbers(driver, 2) == [None, None], "0 waits for the other study, 2 for 1"
    lease.unlink()
    assert numbers(driver, 2) == [0, None]


def test_a_study_never_ends_or_hangs_for_a_lease_elsewhere(drive):
    driver = drive([(1, 0.0), (2, 0.0)])
    for _ in range(2):
        waiting = driver._ask()
        driver._waiting.append(waiting)
        lease_elsewhere(driver, waiting.keys["distill"])
    assert not driver.exhausted
    assert numbers(driver, 2) == [0, None], "one is handed out and waits itself; nobody would ask again otherwise"


@pytest.mark.parametrize(("searcher", "handed_out", "waiting"), [("tpe", None, 2), ("random", 5, 4), ("grid", 5, 4)])
def test_a_searcher_that_learns_is_not_asked_far_ahead(drive, searcher, handed_out, waiting):
    """No more trials are held back than run at a time; of one that learns nothing, many more."""
    first = [*((1, ratio) for ratio in RATIOS[:5]), (2, 0.0), (2, 0.01)]
    driver = drive(first, space=MANY, concurrency=2, searcher=searcher)
    driver.next_assignment()
    assert numbers(driver, 1) == [handed_out]
    assert len(driver._waiting) == waiting


def test_nobody_is_asked_ahead_without_end(drive):
    driver = drive([(1, ratio) for ratio in RATIOS], space=MANY, concurrency=2, searcher="random")
    driver.next_assignment()
    assert numbers(driver, 4) == [None] * 4
    assert len(driver._waiting) == AHEAD


def test_when_nothing_runs_a_trial_is_handed_out(drive):
    driver = drive([(1, 0.0), (1, 0.0), (1, 0.25), (2, 0.0)])
    while not driver.exhausted:
        assignment = driver.next_assignment()
        assert assignment is not None
        finish(driver, assignment, stored=False, outcome="failed")
    assert driver.finished == 4


def test_what_is_held_back_is_neither_lost_nor_in_the_ledger_of_a_killed_driver(drive):
    driver = drive([(1, 0.0), (1, 0.25), (1, 0.5), (2, 0.0)])
    assert numbers(driver, 2) == [0, 3]
    driver.ledger.close()
    driver._lock.release()
    again = drive([(1, 0.0), (1, 0.25), (1, 0.5), (2, 0.0)], earlier=load_study(driver.directory))
    first = again.next_assignment()
    assert first.number == 0
    assert numbers(again, 2) == [3, None]
    finish(again, first)
    assert numbers(again, 3) == [1, 2, None]
    assert [trial.attempt for trial in load_study(driver.directory).records] == [2, 1, 1, 2]


def test_a_study_is_not_made_longer_by_what_was_held_back(drive):
    driver = drive([(1, 0.0), (1, 0.25), (1, 0.5), (2, 0.0)])
    assert numbers(driver, 2) == [0, 3]
    driver.ledger.close()
    driver._lock.release()
    again = drive(trials=3, earlier=load_study(driver.directory))
    while not again.exhausted:
        finish(again, again.next_assignment())
    assert [trial.number for trial in load_study(driver.directory).records] == [0, 1, 3]


def test_the_same_values_are_marked_as_such_and_run_all_the_same(drive):
    driver = drive(space={"distill.ipc": {"choice": [1, 2]}}, trials=5)
    while not driver.exhausted:
        finish(driver, driver.next_assignment())
    records = load_study(driver.directory).records
    first = [next(other.number for other in records if other.values == trial.values) for trial in records]
    expected = [None if index == number else index for number, index in enumerate(first)]
    assert [trial.duplicate_of for trial in records] == expected and expected.count(None) == 2
    assert all(trial.outcome == "complete" for trial in records)


def test_a_point_that_is_enqueued_twice_is_tried_once(drive):
    driver = drive([(1, 0.0), (2, 0.0), (1, 0.0), (1, 0.25), (1, 0.0)], trials=3)
    while not driver.exhausted:
        finish(driver, driver.next_assignment())
    assert [tuple(trial.values.values()) for trial in load_study(driver.directory).records] == [
        (1, 0.0),
        (2, 0.0),
        (1, 0.25),
    ]


@pytest.mark.parametrize(
    ("space", "trials", "points"),
    [
        ({"distill.ipc": {"choice": [1, 2]}}, 60, 2),
        ({"distill.ipc": {"int": [1, 2]}, "seed": {"choice": [0, 1, 2]}}, 60, 6),
        ({"calibrate.mask.ratio": {"uniform": [0.0, 0.9]}}, 25, None),
        ({"distill.ipc": {"choice": [1, 2, 3]}}, 3, None),
    ],
)
def test_a_finite_space_ends(drive, space, trials, points):
    driver = drive(space=space, trials=trials)
    while not driver.exhausted:
        finish(driver, driver.next_assignment())
    records = load_study(driver.directory).records
    ending = f"search.trials: all {trials}" if points is None else "every point of the space was tried"
    assert driver.ending.startswith(ending)
    assert len(records) == (points or trials)
    assert all(trial.duplicate_of is None for trial in records)


def test_what_a_node_computes_under_keys_of_its_own_is_noted_and_told_once(drive, caplog):
    """Another GPU model, other data or another ddcal there; pruning elsewhere sees the note alone."""
    driver = drive([(1, 0.0), (2, 0.0), (3, 0.0), (3, 0.25)])
    computed = set()
    for node, same in (("a/1", ["distill"]), ("a/1", []), ("b/2", STAGES), ("c/3", [])):
        assignment = driver.next_assignment()
        planned = driver._running[assignment.number].keys
        keys = {stage: key if stage in same else key[::-1] for stage, key in planned.items()}
        finish(driver, assignment, keys=keys, node=node)
        computed |= {*keys.values()}
    told = [record.getMessage() for record in caplog.records]
    assert [said.partition(":")[0] for said in told] == [
        "tiny-0000 was computed on a/1 under other keys than planned, from its stage train on",
        "tiny-0003 was computed on c/3 under other keys than planned, from its stage distill on",
    ]
    shutil.rmtree(driver.directory)
    assert computed <= set(referred_keys(driver.store))


def test_after_the_plateau_only_what_was_begun_goes_on(drive, monkeypatch):
    """One that was begun waits for another machine's stage; nothing new takes its place meanwhile."""
    monkeypatch.setattr("ddcal.study.run.hold_back.ASK_SECONDS", 0.0)
    asked = [(1, 0.0), (2, 0.0), (3, 0.0), (1, 0.25), (1, 0.5)]
    driver = drive(asked, trials=9, concurrency=3, stop={"plateau": 1})
    first, second, third = (driver.next_assignment() for _ in range(3))
    finish(driver, first)
    finish(driver, driver.next_assignment())  # as good as the first one
    assert driver._plateau.reached and driver.running == 2
    driver.ledger.close()
    driver._lock.release()  # as the kernel does for a killed driver

    again = drive(asked, trials=9, concurrency=3, stop={"plateau": 1}, earlier=load_study(driver.directory))
    lease = lease_elsewhere(again, driver._running[third.number].keys["distill"])
    running = again.next_assignment()
    assert running.number == second.number and not again.exhausted
    assert numbers(again, 3) == [None] * 3, "the other one that was begun waits, and nothing new begins"
    lease.unlink()
    assert numbers(again, 1) == [third.number] and again.exhausted
    assert again.ending.startswith("stop.plateau")
