"""The staged schedulers with trials that only report: what is stopped, and that no rung mixes stages or kinds."""

import math
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import FIFOScheduler

from ddcal.pipeline.stages import STAGES
from ddcal.study.record.events import StudyStarted, TrialFinished, TrialPoints, TrialStarted
from ddcal.study.record.ledger import Ledger
from ddcal.study.search.schedulers import StagedScheduler, make_scheduler


class Reporting:
    """A trial as schedulers see it, on the way through a scheduler."""

    def __init__(self, scheduler, name, backbone="dc"):
        self.scheduler, self.trial_id = scheduler, name
        self.config = {"trial": {"distill": {"backbone": backbone}}}
        scheduler.on_trial_add(None, self)

    def at(self, stage, fraction, nll, accuracy=0.5):
        """Report; True if the trial goes on."""
        low, high = STAGES[stage].span
        values = {"val/nll": nll, "val/accuracy": accuracy, "val/ece": nll}
        result = {"stage": stage, "progress": low + (high - low) * fraction, **values}
        decision = self.scheduler.on_trial_result(None, self, result)
        if decision == "STOP":
            self.scheduler.on_trial_complete(None, self, result)
        return decision == "CONTINUE"


@pytest.fixture
def staged(tiny_study):
    """staged(name=…, …) -> StagedScheduler; one objective, two for moasha."""

    def make(name="asha", grace=0.25, reduction=2.0, trial="ddnn", **settings):
        several = {"val/ece": "min", "val/accuracy": "max"}
        objectives = several if name == "moasha" else {"val/nll": "min"}
        scheduler = {"name": name, "grace": grace, "reduction": reduction, **settings}
        return StagedScheduler(tiny_study(objectives=objectives, scheduler=scheduler, trial=trial))

    return make


@pytest.mark.parametrize("name", ["asha", "moasha"])
@pytest.mark.parametrize("stage", ["distill", "train"])
@pytest.mark.parametrize(
    ("fraction", "nll", "goes_on"), [(0.25, 2.0, False), (0.25, 0.5, True), (0.25, 1.0, True), (0.2, 2.0, True)]
)
def test_a_worse_trial_is_stopped_at_a_rung(staged, name, stage, fraction, nll, goes_on):
    scheduler = staged(name)
    assert Reporting(scheduler, "a").at(stage, 0.25, 1.0)
    assert Reporting(scheduler, "b").at(stage, fraction, nll) is goes_on


@pytest.mark.parametrize("name", ["asha", "median", "moasha"])
def test_stages_are_never_compared(staged, name):
    scheduler = staged(name)
    for index in range(4):
        trial = Reporting(scheduler, f"good {index}")
        assert all(trial.at("distill", fraction, 0.1, 0.9) for fraction in (0.25, 0.5, 0.75, 1.0))
    late = Reporting(scheduler, "late")  # its distilled set came from the store without points
    assert all(late.at("train", fraction, 5.0, 0.1) for fraction in (0.25, 0.5, 0.75, 1.0))


@pytest.mark.parametrize("name", ["asha", "median", "moasha"])
@pytest.mark.parametrize("backbone", ["full", "real"])
def test_full_and_real_share_no_rung_with_distilled_sets(staged, name, backbone):
    scheduler = staged(name)
    for index in range(4):
        trial = Reporting(scheduler, f"{backbone} {index}", backbone)
        if backbone == "real":
            assert trial.at("distill", 0.25, 0.1, 0.9)
        assert trial.at("train", 0.25, 0.1, 0.9)
    distilled = Reporting(scheduler, "dc", "dc")
    assert distilled.at("distill", 0.25, 5.0, 0.1) and distilled.at("train", 0.25, 5.0, 0.1)
    other = Reporting(scheduler, "dsa", "dsa")
    compared = other.at("train", 0.25, 9.0, 0.0)
    assert compared is (name == "median"), "distilled sets are compared, and median wants three others"


@pytest.mark.parametrize("name", ["asha", "moasha", "median"])
def test_a_network_that_is_trained_to_the_end_is_kept(staged, name):
    scheduler = staged(name, grace=0.9)
    for index in range(4):
        trial = Reporting(scheduler, str(index))
        assert trial.at("train", 0.75, 0.1) and trial.at("train", 1.0, 0.1, 0.9)
    last = Reporting(scheduler, "last")
    assert last.at("train", 0.75, 9.0, 0.1) and last.at("train", 1.0, 9.0, 0.1)


def test_a_distilled_set_is_judged_at_the_end_of_distillation(staged):
    scheduler = staged(grace=1.0 - 1e-9)
    assert Reporting(scheduler, "a").at("distill", 1.0, 1.0)
    assert not Reporting(scheduler, "b").at("distill", 1.0, 2.0)


def test_in_a_distill_study_progress_is_that_of_the_stage(staged):
    scheduler = staged(trial="distill", grace=0.5)
    for name, progress, nll, decision in (
        ("a", 0.5, 1.0, "CONTINUE"),
        ("b", 0.25, 9.0, "CONTINUE"),
        ("b", 0.5, 9.0, "STOP"),
    ):
        result = {"stage": "distill", "progress": progress, "val/nll": nll}
        trial = SimpleNamespace(trial_id=name, config={"trial": {"distill": {"backbone": "dc"}}})
        assert scheduler.on_trial_result(None, trial, result) == decision


@pytest.mark.parametrize("stage", ["calibrate", "evaluate", ""])
def test_other_stages_are_left_alone(staged, stage):
    scheduler = staged()
    result = {"stage": stage, "progress": 1.0, "val/nll": math.nan}
    for name in "abc":
        trial = SimpleNamespace(trial_id=name, config={"trial": {"distill": {"backbone": "dc"}}})
        assert scheduler.on_trial_result(None, trial, result) == "CONTINUE"


@pytest.mark.parametrize("name", ["asha", "moasha"])
def test_nan_is_worst_and_no_error(staged, name):
    scheduler = staged(name)
    assert Reporting(scheduler, "first").at("distill", 0.25, math.nan, math.nan)
    assert Reporting(scheduler, "good").at("distill", 0.25, 1.0)
    assert not Reporting(scheduler, "nan").at("distill", 0.25, math.nan, math.nan)
    assert Reporting(scheduler, "as good").at("distill", 0.25, 1.0)


def test_median_stops_what_is_worse_than_the_median(staged):
    scheduler = staged("median", reduction=2.0)
    for index, nll in enumerate((1.0, 2.0, math.nan, 3.0)):
        assert Reporting(scheduler, str(index)).at("train", 0.25, nll) is (index < 3)
    assert Reporting(scheduler, "better").at("train", 0.25, 1.5)
    assert not Reporting(scheduler, "worse").at("train", 0.25, 2.5)
    assert not Reporting(scheduler, "nan").at("train", 0.25, math.nan)


@pytest.mark.parametrize("name", ["asha", "median", "moasha"])
def test_a_trial_that_begins_again_is_counted_once(staged, name):
    """A worker died: the trial reports its first points once more, cached."""
    scheduler = staged(name)
    for index in range(3):
        Reporting(scheduler, str(index)).at("train", 0.25, 1.0)
    trial = Reporting(scheduler, "again")
    assert trial.at("train", 0.25, 1.0) and trial.at("train", 0.5, 1.0)
    assert trial.at("train", 0.25, 99.0), "known already: not looked at"
    for inner in scheduler._inner.values():
        inner.on_trial_result = None  # would raise
    assert trial.at("train", 0.5, 99.0)


@pytest.mark.parametrize("name", ["asha", "median", "moasha"])
def test_a_trial_that_ends_is_taken_out_of_every_stage(staged, name):
    scheduler = staged(name)
    trial = Reporting(scheduler, "a")
    trial.at("distill", 0.25, 1.0), trial.at("train", 0.25, 1.0)
    assert len(scheduler._joined["a"]) == 2
    scheduler.on_trial_error(None, trial) if name == "median" else scheduler.on_trial_complete(None, trial, {})
    assert not scheduler._joined and not scheduler._reached
    assert name != "asha" or all(not inner._trial_info for inner in scheduler._inner.values())


@pytest.mark.parametrize("name", ["asha", "moasha"])
def test_a_resumed_study_compares_with_the_trials_before(tiny_study, tmp_path, name):
    objectives = {"val/ece": "min", "val/accuracy": "max"} if name == "moasha" else {"val/nll": "min"}
    study = tiny_study(objectives=objectives, scheduler={"name": name})
    ledger = Ledger(tmp_path)
    ledger.append(StudyStarted, study=study.model_dump(mode="json"))
    config = {"distill": {"backbone": "dc"}}
    for number in (0, 1):
        ledger.append(TrialStarted, number=number, trial_key=f"tiny-{number:04d}", values={}, config=config)
        value = 1.0 if number == 0 else None
        point = {"stage": "distill", "progress": 0.125, "val/nll": value, "val/ece": value, "val/accuracy": 0.5}
        ledger.append(TrialPoints, number=number, points=[point])
    ledger.append(TrialFinished, number=0, outcome="complete", metrics={})
    scheduler = make_scheduler(study, tmp_path)
    (inner,) = scheduler._inner.values()
    rungs = inner._rungs if name == "moasha" else dict(inner._brackets[0]._rungs)
    assert list(rungs[250.0]) == ["earlier-0"], "trial 1 will report again"
    assert not Reporting(scheduler, "new").at("distill", 0.25, 2.0, 0.4)


def test_a_resumed_study_enters_its_past_without_deciding_it_again(staged, monkeypatch):
    """Every decision looks at all trials of a rung: of 10,000 trials that takes long before the first one runs."""
    trials = [(0.1 * (7 * number % 10), 0.1 * (3 * number % 10)) for number in range(12)]
    live, past = staged("moasha"), []
    for number, (ece, accuracy) in enumerate(trials):
        config = {"distill": {"backbone": "dc"}}
        past.append(TrialStarted(number=number, trial_key=str(number), values={}, config=config))
        for fraction in (0.25, 0.5):
            point = {"stage": "train", "progress": 0.5 + 0.4 * fraction, "val/ece": ece, "val/accuracy": accuracy}
            past.append(TrialPoints(number=number, points=[point]))
            trial = SimpleNamespace(trial_id=f"earlier-{number}", config={"trial": config})
            live.on_trial_result(None, trial, point)
        past.append(TrialFinished(number=number, outcome="complete", metrics={}))
    again = staged("moasha")
    with monkeypatch.context() as patch:
        patch.setattr("ddcal.study.search.schedulers.survives", None)  # would raise
        again.remember(past)
    ((kind, inner),) = again._inner.items()
    assert kind == ("train", "distilled") and inner._rungs == live._inner[kind]._rungs
    assert len(inner._rungs[250.0]) == len(inner._rungs[500.0]) == len(trials)
    assert not again._joined and not again._reached


def test_a_resumed_study_with_median_enters_trials_that_went_on_all_the_same(staged):
    """In debug mode nothing is stopped: trials worse than the median then have points to their end."""
    past = []
    for number in range(5):
        past.append(
            TrialStarted(number=number, trial_key=str(number), values={}, config={"distill": {"backbone": "dc"}})
        )
        for fraction in (0.25, 0.5, 0.75):
            point = {"stage": "train", "progress": 0.5 + 0.4 * fraction, "val/nll": float(number)}
            past.append(TrialPoints(number=number, points=[point]))
        past.append(TrialFinished(number=number, outcome="complete", metrics={}))
    scheduler = staged("median")
    scheduler.remember(past)
    assert Reporting(scheduler, "better").at("train", 0.25, 1.5)
    assert not Reporting(scheduler, "worse").at("train", 0.25, 3.5)


def test_without_a_scheduler_nothing_is_stopped(tiny_study, tmp_path):
    assert type(make_scheduler(tiny_study(), tmp_path)) is FIFOScheduler
