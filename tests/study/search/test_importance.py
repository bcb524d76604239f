"""Importances on ledgers whose metrics are a known function of the searched values."""

import random
from dataclasses import replace

import pytest

from ddcal.study import load_study
from ddcal.study.record.events import StudyStarted, TrialFinished, TrialStarted
from ddcal.study.record.ledger import Ledger
from ddcal.study.search.importance import caution, importances

SPACE = {
    "calibrate.mask.ratio": {"uniform": [0.0, 1.0]},
    "calibrate.t_max": {"uniform": [2.0, 9.0]},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.mask.ratio": {"uniform": [0.0, 1.0], "when": {"distill.backbone": ["dc"]}},
}


@pytest.fixture(scope="module")
def results(tiny_study, tmp_path_factory):
    """60 trials: ECE is the MTS ratio; accuracy is the MDT ratio where there is one, else nothing but noise."""
    tmp_path = tmp_path_factory.mktemp("made")
    study = tiny_study(space=SPACE, search={"trials": 60})
    ledger = Ledger(tmp_path)
    facts = {"environment": {}, "versions": {}, "git_commit": None, "store": str(tmp_path), "study_id": "0"}
    ledger.append(StudyStarted, study=study.model_dump(mode="json"), **facts)
    rng = random.Random(0)
    for number in range(60):
        values = {"calibrate.mask.ratio": rng.random(), "calibrate.t_max": 2 + 7 * rng.random()}
        values["distill.backbone"] = rng.choice(["real", "dc"])
        if values["distill.backbone"] == "dc":
            values["distill.mask.ratio"] = rng.random()
        metrics = {"val/ece": values["calibrate.mask.ratio"], "val/nll": 1.0}
        metrics["val/accuracy"] = values.get("distill.mask.ratio", rng.random() * 1e-3)
        record = {"keys": {}, "cache_hits": [], "stage_seconds": {}, "seconds": 1.0, "error": None, "fingerprint": None}
        ledger.append(TrialStarted, number=number, trial_key=f"tiny-{number:04d}", values=values, config={}, log=None)
        outcome = {0: "failed", 1: "infeasible", 2: "pruned"}.get(number, "complete")
        ledger.append(TrialFinished, number=number, outcome=outcome, metrics=metrics, **record)
    ledger.close()
    return load_study(tmp_path)


@pytest.fixture(scope="module")
def computed(results):
    return importances(results)


@pytest.mark.slow
def test_the_name_that_decides_has_the_share(results, computed):
    found = {(one.objective, one.name): one for one in computed}
    assert found["val/ece", "calibrate.mask.ratio"].share > 0.95
    assert found["val/ece", "calibrate.t_max"].share < 0.05
    conditional = found["val/accuracy", "distill.mask.ratio"]
    assert conditional.share > 0.9, "not diluted by the trials where it does not exist"
    active = sum("distill.mask.ratio" in t.values for t in results.records if t.outcome == "complete")
    assert conditional.trials == active < 57 and "distill.backbone" in conditional.where
    assert found["val/ece", "calibrate.mask.ratio"].trials == 57, "only complete trials count"
    assert caution(list(found.values())) is not None, "the conditional one rests on fewer than 30 trials"
    assert caution([found["val/ece", "calibrate.mask.ratio"]]) is None


def test_an_interval_says_how_sure_a_share_is(computed):
    for one in computed:
        assert 0.0 <= one.low <= one.share <= one.high <= 1.0
    sure = next(one for one in computed if one.name == "calibrate.mask.ratio")
    assert sure.objective == "val/ece" and sure.low > 0.9


def test_shares_of_one_forest_sum_to_one(computed):
    always = [one.share for one in computed if one.objective == "val/ece" and not one.where]
    assert len(always) == 3 and sum(always) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("trials", [4, 9])
def test_an_interval_holds_its_share_however_few_and_wild_the_trials_are(results, trials, seed):
    """One trial that stands out, as a diverged one does: some draws have it, others do not."""
    few = load_study(results.directory)
    generator = random.Random(seed)
    few.records = [trial for trial in results.records if trial.outcome == "complete"][:trials]
    few.records = [
        replace(
            trial, metrics={"val/ece": generator.random() + (5.0 if n == 1 else 0.0), "val/accuracy": float(n == 1)}
        )
        for n, trial in enumerate(few.records)
    ]
    for one in importances(few):
        if one.share is not None:
            assert 0.0 <= one.low <= one.share <= one.high <= 1.0


def test_why_a_name_has_no_share_is_said(results):
    one = load_study(results.directory)
    one.records = [replace(trial, values=trial.values | {"calibrate.t_max": 3.0}) for trial in results.records[:20]]
    found = {(i.objective, i.name): i for i in importances(one)}["val/ece", "calibrate.t_max"]
    assert (found.share, found.without_share) == (None, "one value")
    one.records = results.records[:5]
    assert {i.without_share for i in importances(one) if i.share is None} == {"too few"}


def test_an_objective_that_never_varies_has_no_important_name(results):
    same = load_study(results.directory)
    same.records = [replace(t, metrics={"val/ece": 0.5, "val/accuracy": 0.5}) for t in results.records]
    assert {(one.share, one.low, one.high) for one in importances(same)} == {(0.0, 0.0, 0.0)}


def test_it_says_which_values_are_better(computed):
    """ECE grows with the MTS ratio and lower is better; accuracy grows with the MDT ratio and higher is better."""
    found = {(one.objective, one.name): one.better for one in computed}
    assert found["val/ece", "calibrate.mask.ratio"] == "lower"
    assert found["val/accuracy", "distill.mask.ratio"] == "higher"
    assert found["val/accuracy", "distill.backbone"] == "dc", "where there is an MDT ratio, accuracy is above noise"
    assert found["val/ece", "calibrate.t_max"] == "unclear"


@pytest.mark.slow
def test_it_repeats(results, computed):
    assert importances(results) == computed
