"""What ``evaluate.also`` adds to an evaluation: the definitions on a trial's own logits, and keys that do not move."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import softmax

from ddcal.calibration import score_probabilities
from ddcal.calibration.conformal import KINDS
from ddcal.config import resolve
from ddcal.pipeline import Environment, open_store, stage_keys
from ddcal.pipeline.compute.further import disagreement
from ddcal.pipeline.stages.evaluate import EVALUATE
from ddcal.pipeline.trial import TrialRunner

BASE = {"distill__backbone": "real", "distill__ipc": 3, "train__epochs": 10, "train__lr": 0.1, "train__networks": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_trial, environment, datasets):
    store = open_store(tmp_path_factory.mktemp("further"))

    def finished(**changes):
        runner = TrialRunner(
            make_trial(calibrate__method="ts_val", **{**BASE, **changes}), store, environment, datasets=datasets
        )
        while not runner.done:
            runner.advance()
        return runner

    return finished


def test_more_is_measured_where_it_is_asked_for(run):
    plain, more = run(), run(evaluate__also=["conformal", "signs", "networks"])
    assert more.metrics.items() > plain.metrics.items()
    added = {name: value for name, value in more.metrics.items() if name not in plain.metrics}
    logits = load_file(more.place.entries["train"].folder / "logits.safetensors")
    for calibration in ("", "raw/", "ts_train/"):
        assert added[f"val/{calibration}over_confidence"] + added[
            f"val/{calibration}under_confidence"
        ] == pytest.approx(more.metrics[f"val/{calibration}ece"], abs=1e-12)
        for kind in KINDS:
            assert 0.5 < added[f"test/{calibration}{kind}_coverage"] <= 1.0
            assert 0.0 < added[f"test/{calibration}{kind}_size"] <= 10.0
    together = score_probabilities(
        softmax(logits["test_logits"].astype(np.float64), axis=2).mean(0), logits["test_labels"]
    )
    for name, value in together.items():
        assert added[f"test/raw/ensemble/{name}"] == pytest.approx(value, abs=1e-9)
    predicted = logits["test_logits"].argmax(2)
    pairs = [(predicted[i] != predicted[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert added["test/disagreement"] == pytest.approx(np.mean(pairs), abs=1e-12)


def test_networks_that_agree_do_not_disagree():
    logits = np.eye(4)
    assert disagreement([logits, 2 * logits]) == 0.0 and disagreement([logits]) == 0.0
    assert disagreement([logits, logits[::-1]]) == 1.0


def test_what_is_not_asked_for_is_not_written(make_trial):
    """Configs of before stay the same: an export of one is still known as the same trial's."""
    assert make_trial(**BASE).model_dump(mode="json")["evaluate"] == {"bins": 15}
    asked = make_trial(**BASE, evaluate__also=["signs"]).model_dump(mode="json")["evaluate"]
    assert asked == {"bins": 15, "also": ["signs"], "coverage": 0.9}


def test_keys_move_with_what_is_asked_for_alone(make_trial):
    def key(**changes):
        config = resolve(make_trial(calibrate__method="mts", **{**BASE, **changes}))
        return stage_keys(config, "0" * 64, Environment("cpu", 1))["evaluate"]

    plain = key()
    assert key(evaluate__coverage=0.8) == plain == key(evaluate__also=[])
    conformal = key(evaluate__also=["conformal"])
    assert len({plain, conformal, key(evaluate__also=["conformal"], evaluate__coverage=0.8)}) == 3
    assert key(evaluate__also=["signs", "conformal"]) == key(evaluate__also=["conformal", "signs"])


def test_what_an_evaluation_costs_depends_on_what_it_measures(make_trial):
    def kind(**changes):
        return EVALUATE.kind(resolve(make_trial(**{**BASE, **changes})))

    assert kind() == kind(evaluate__coverage=0.8) != kind(evaluate__also=["networks"])
    assert kind(evaluate__also=["signs", "conformal"]) == kind(evaluate__also=["conformal", "signs"])


def test_sets_without_images_for_their_threshold_are_refused(make_trial):
    without = {**BASE, "data__validation_fraction": 0.0, "calibrate__method": "ts_train"}
    make_trial(**without, evaluate__also=["signs", "networks"])
    with pytest.raises(ValueError, match=r"evaluate\.also has 'conformal' but data\.validation_fraction is 0"):
        make_trial(**without, evaluate__also=["conformal"])
