"""Studies on real digits through the debug executor."""

import json

import pytest
import yaml
from optuna.trial import TrialState

from ddcal.config import TrialConfig
from ddcal.config.metrics import VAL_METRICS
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import read_ledger
from ddcal.study.run.runner import Hooks
from ddcal.study.search.search import StudySearch

ENQUEUED = [
    {"distill.ipc": 1, "calibrate.method": "mts", "calibrate.mask.ratio": 0.25},
    {"distill.ipc": 1, "calibrate.method": "mts", "calibrate.mask.ratio": 0.75},
    {"distill.ipc": 500, "calibrate.method": "none"},  # digits have about 100 training images a class
    {"distill.ipc": 2, "calibrate.method": "none"},
]
SPACE = {
    "distill.ipc": {"choice": [1, 2, 500]},
    "calibrate.method": {"choice": ["none", "mts"]},
    "calibrate.mask.ratio": {"uniform": [0.0, 0.9], "when": {"calibrate.method": ["mts"]}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_study):
    """A study of four enqueued trials, and the trials in the order in which `on_finished` saw them."""
    study = tiny_study(space=SPACE, search={"trials": 4, "enqueue": ENQUEUED}, constraints={"val/accuracy": ">= 0.1"})
    seen = []
    results = run_study(study, output=tmp_path_factory.mktemp("runs"), debug=True, hooks=Hooks(on_finished=seen.append))
    return results, seen


def test_every_trial_has_its_outcome(finished):
    results, seen = finished
    assert [trial.outcome for trial in results.records] == ["complete", "complete", "failed", "complete"]
    assert [trial.outcome for trial in seen] == [trial.outcome for trial in results.records]
    assert [trial.values for trial in results.records] == ENQUEUED


def test_trials_that_differ_in_calibration_share_the_stages_before_it(finished):
    first, second, _, other = finished[0].records
    assert [name for name in first.keys if first.keys[name] == second.keys[name]] == ["distill", "train"]
    assert first.cache_hits == () and second.cache_hits == ("distill", "train") and other.cache_hits == ()
    assert second.saved_seconds == first.stage_seconds["distill"] + first.stage_seconds["train"] > 0
    assert not set(first.keys.values()) & set(other.keys.values())
    assert first.metrics["val/raw/nll"] == second.metrics["val/raw/nll"]


def test_a_trial_that_raises_says_why_and_the_study_goes_on(finished):
    failed = finished[0].records[2]
    assert "ipc" in failed.error and "500" in failed.error
    assert failed.log == "logs/tiny-0002.log"  # from the study's folder on, which may be moved
    log = finished[0].directory / failed.log
    assert "Traceback" in log.read_text() and "500" in log.read_text()
    assert finished[0].records[3].outcome == "complete"


def test_the_folder_holds_everything(finished):
    results, _ = finished
    present = {path.name for path in results.directory.iterdir()}
    assert present >= {
        "study.yaml",
        "ledger.jsonl",
        "trials.csv",
        "pareto.csv",
        "summary.json",
        "optuna.journal",
        "logs",
    }
    written = yaml.safe_load((results.directory / "study.yaml").read_text())
    assert written.pop("storage") == {"output": "..", "store": None, "cache": None, "access": "private"}
    assert written == results.study.model_dump(mode="json", exclude={"storage"})
    assert {path.stem for path in (results.directory / "logs").iterdir()} == {t.trial_key for t in results.records}
    for trial in results.records:
        config = TrialConfig.model_validate(trial.config)
        assert config.distill.ipc == trial.values["distill.ipc"] and config.network.width == 8
    events = [event.event for event in read_ledger(results.directory)]
    trial = ["trial_started", "trial_points", "trial_finished"]
    whole = [event for event, after in zip(events, [*events[1:], None], strict=True) if event != after]
    assert whole == ["study_started", *trial * 2, *["trial_started", "trial_finished"], *trial, "study_finished"]
    assert json.loads((results.directory / "summary.json").read_text())["outcomes"] == {"complete": 3, "failed": 1}


def test_optuna_holds_the_same(finished):
    results, _ = finished
    trials = StudySearch(results.study, results.directory).optuna.get_trials()
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.state for trial in trials] == states
    for trial, record in zip(trials, results.records, strict=True):
        assert trial.number == record.number and trial.params == record.values
        if trial.values:
            assert trial.values == [record.metrics["val/ece"], record.metrics["val/accuracy"]]


def test_results_are_the_same_when_loaded_again(finished):
    results, _ = finished
    again = load_study(results.directory)
    assert again.records == results.records and again.best == results.best is not None


def test_the_study_of_a_taken_name_is_refused_and_nothing_changes(finished):
    results, _ = finished
    before = {path: path.stat().st_mtime_ns for path in results.directory.parent.rglob("*")}
    with pytest.raises(ValueError, match=r"tiny exists: `ddcal resume .*tiny`"):
        run_study(results.study, output=results.directory.parent, debug=True)
    assert {path: path.stat().st_mtime_ns for path in results.directory.parent.rglob("*")} == before


def test_the_same_seed_gives_the_same_study(tiny_study, tmp_path):
    study = tiny_study(search={"searcher": "tpe", "startup": 2, "trials": 4})
    first, second = (run_study(study, output=tmp_path / name, debug=True) for name in "ab")
    assert [t.values for t in first.records] == [t.values for t in second.records]
    assert [t.metrics for t in first.records] == [t.metrics for t in second.records]
    assert [t.keys for t in first.records] == [t.keys for t in second.records]
    assert len({t.values["calibrate.mask.ratio"] for t in first.records}) == 4


def test_an_accuracy_floor_makes_trials_infeasible(tiny_study, tmp_path):
    results = run_study(tiny_study(constraints={"val/accuracy": ">= 0.99"}), output=tmp_path, debug=True)
    assert [trial.outcome for trial in results.records] == ["infeasible"] * 2
    assert all("val/accuracy >= 0.99" in trial.error for trial in results.records)
    assert results.best is None and results.completed
    assert results.trials["val/ece"].notna().all()


def test_no_trial_begins_after_its_hours(tiny_study, tmp_path):
    results = run_study(tiny_study(stop={"hours": 1e-9}), output=tmp_path, debug=True)
    assert results.records == [] and not results.completed
    assert (tmp_path / "tiny" / "trials.csv").is_file()


def test_a_debugger_sees_the_exception(tiny_study, tmp_path):
    enqueue = [{"distill.ipc": 500}]
    study = tiny_study(space={"distill.ipc": {"choice": [1, 500]}}, search={"trials": 2, "enqueue": enqueue})
    with pytest.raises(ValueError, match="500"):
        run_study(study, output=tmp_path, debug=True, catch=False)
    assert [trial.outcome for trial in load_study(tmp_path / "tiny").records] == [None], "unfinished"


def test_a_distill_study_stops_at_the_distilled_set(tiny_study, tmp_path):
    distill = {"distill.backbone": "dc", "distill.iterations": 2, "distill.ipc": 1, "distill.probe.points": 2}
    distill |= {"distill.matching.outer": 1, "distill.matching.inner": 1, "distill.matching.real_batch": 16}
    space = {"distill.mask.ratio": {"choice": [0.0, 0.3]}}
    results = run_study(tiny_study(base=distill, space=space, trial="distill"), output=tmp_path, debug=True)
    for trial in results.records:
        assert trial.outcome == "complete" and list(trial.keys) == ["distill"]
        assert set(trial.metrics) == set(VAL_METRICS)


@pytest.mark.parametrize("broken", ["val/ece", "val/accuracy", "val/nll"])
def test_a_trial_without_a_finite_number_to_select_on_has_failed(tiny_study, tmp_path, monkeypatch, broken):
    from ddcal.pipeline.compute import evaluate as module

    def spoiled(*arguments, evaluate=module.evaluate):
        values = evaluate(*arguments)
        values["metrics"][broken] = float("nan")
        return values

    monkeypatch.setattr(module, "evaluate", spoiled)
    study = tiny_study(constraints={"val/nll": "<= 9.0"}, search={"trials": 1})
    results = run_study(study, output=tmp_path, debug=True)
    assert results.records[0].outcome == "failed" and broken in results.records[0].error
    assert results.best is None
