"""Importances on ledgers whose metrics are a known function of the searched values."""

import random

import pytest

from ddcal.analysis.study_figures import plot_pareto
from ddcal.study import load_study
from ddcal.study.importance import importances
from ddcal.study.ledger import Ledger

SPACE = {
    "calibrate.mask.ratio": {"uniform": [0.0, 1.0]},
    "calibrate.t_max": {"uniform": [2.0, 9.0]},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.mask.ratio": {"uniform": [0.0, 1.0], "when": {"distill.backbone": ["dc"]}},
}


@pytest.fixture
def results(tiny_study, tmp_path):
    """60 trials: ECE is the MTS ratio; accuracy is the MDT ratio where there is one, else nothing but noise."""
    study = tiny_study(space=SPACE, search={"trials": 60})
    ledger = Ledger(tmp_path)
    facts = {"environment": {}, "versions": {}, "git_commit": None, "store": str(tmp_path), "study_id": "0"}
    ledger.append("study_started", study=study.model_dump(mode="json"), **facts)
    rng = random.Random(0)
    for number in range(60):
        values = {"calibrate.mask.ratio": rng.random(), "calibrate.t_max": 2 + 7 * rng.random()}
        values["distill.backbone"] = rng.choice(["real", "dc"])
        if values["distill.backbone"] == "dc":
            values["distill.mask.ratio"] = rng.random()
        metrics = {"val/ece": values["calibrate.mask.ratio"], "val/nll": 1.0}
        metrics["val/accuracy"] = values.get("distill.mask.ratio", rng.random() * 1e-3)
        record = {"keys": {}, "cache_hits": [], "stage_seconds": {}, "seconds": 1.0, "error": None, "fingerprint": None}
        ledger.append(
            "trial_started", number=number, trial_key=f"tiny-{number:04d}", values=values, config={}, log=None
        )
        outcome = "failed" if number == 0 else "complete"
        ledger.append("trial_finished", number=number, outcome=outcome, metrics=metrics, **record)
    ledger.close()
    return load_study(tmp_path)


def test_the_name_that_decides_has_the_share(results):
    found = {(one.objective, one.name): one for one in importances(results)}
    assert found["val/ece", "calibrate.mask.ratio"].share > 0.95
    assert found["val/ece", "calibrate.t_max"].share < 0.05
    conditional = found["val/accuracy", "distill.mask.ratio"]
    assert conditional.share > 0.9, "not diluted by the trials where it does not exist"
    active = sum("distill.mask.ratio" in t.values for t in results.records if t.outcome == "complete")
    assert conditional.trials == active < 59 and "distill.backbone" in conditional.where
    assert found["val/ece", "calibrate.mask.ratio"].trials == 59, "the failed trial does not count"


def test_it_repeats(results):
    assert importances(results) == importances(results)


def test_the_pareto_picture_is_a_png(results, tmp_path):
    path = plot_pareto(results, tmp_path / "pareto.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
