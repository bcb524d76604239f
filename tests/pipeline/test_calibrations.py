"""What each calibration sees and says, through whole trials that share one distilled set and its networks."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from ddcal.calibration import (
    accuracy,
    expected_calibration_error,
    fit_temperature,
    load_calibrator,
    score,
    score_probabilities,
)
from ddcal.config.calibrations import CALIBRATIONS
from ddcal.data import load_dataset
from ddcal.distill import SyntheticSet
from ddcal.networks import predict_logits
from ddcal.pipeline import TrialRunner, open_store, run_trial
from ddcal.pipeline.compute.train import load_networks

BASE = {"distill__backbone": "real", "distill__ipc": 4, "train__epochs": 40, "train__lr": 0.1}
FULL = {"distill__backbone": "full", "train__epochs": 3, "train__batch_size": 16, "train__augment": "none"}
METHODS = {
    "none": {},
    "ts_train": {},
    "ts_holdout": {"train__holdout": 0.25},
    "ts_val": {},
    "mts": {},
    "ts_cv": {"calibrate__folds": 2},
    "mts_distilled": {"calibrate__folds": 2},
    "vs_val": {},
    "svs_val": {},
    "sms_val": {},
    "matrix_val": {},
    "dirichlet_val": {},
    "ets_val": {},
    "isotonic_val": {},
    "histogram_val": {},
}
TEMPERATURES = [method for method in METHODS if CALIBRATIONS[method].temperature_alone or method == "none"]
OTHERS = [method for method in METHODS if method not in TEMPERATURES]


@pytest.fixture(scope="module")
def finish(tmp_path_factory, make_trial, environment, datasets):
    """Run a trial to its end on one shared store, once for every config."""
    store, known = open_store(tmp_path_factory.mktemp("calibrations")), {}

    def run(method, **changes):
        key = json.dumps([method, changes], sort_keys=True)
        if key not in known:
            config = make_trial(calibrate__method=method, **{**BASE, **METHODS[method], **changes})
            runner = TrialRunner(config, store, environment, datasets=datasets)
            while not runner.done:
                runner.advance()
            known[key] = runner
        return known[key]

    return run


def logits_of(runner):
    return load_file(runner.entries["train"].folder / "logits.safetensors")


def temperatures_of(runner):
    fits = json.loads((runner.entries["calibrate"].folder / "calibration.json").read_text())["fits"]
    return [fit["temperature"] for fit in fits]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_calibration_leaves_the_accuracy_alone_if_it_says_so(method, finish):
    metrics = finish(method).metrics
    for split in ("val", "test"):
        if CALIBRATIONS[method].keeps_accuracy:
            assert metrics[f"{split}/accuracy"] == metrics[f"{split}/raw/accuracy"]
        assert metrics[f"{split}/accuracy"] > 0.3
        assert 0.0 < metrics[f"{split}/ece_noise_floor"] < 0.2


@pytest.mark.parametrize("method", TEMPERATURES)
def test_metrics_are_those_of_the_logits_at_the_temperatures_to_the_bit(method, finish):
    """As they were before there were calibrators with more than a temperature."""
    runner = finish(method)
    logits, temperatures = logits_of(runner), temperatures_of(runner)
    for split in ("val", "test"):
        scores = [score(logits[f"{split}_logits"][i], logits[f"{split}_labels"], temperatures[i], 15) for i in range(2)]
        for name in scores[0]:
            assert runner.metrics[f"{split}/{name}"] == math.fsum(one[name] for one in scores) / 2


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_metrics_are_those_of_the_probabilities_of_stored_calibrators(method, finish):
    runner = finish(method)
    logits, folder = logits_of(runner), runner.entries["calibrate"].folder
    scores = []
    for index in range(2):
        calibrator = load_calibrator(folder / "calibrators" / str(index))
        fitted = type(calibrator)().fit(logits["val_logits"][index], logits["val_labels"])
        probabilities = calibrator.probabilities(logits["test_logits"][index])
        assert torch.equal(
            *(torch.from_numpy(c.probabilities(logits["test_logits"][index])) for c in (calibrator, fitted))
        )
        scores.append(score_probabilities(probabilities, logits["test_labels"], 15))
    for name in scores[0]:
        assert runner.metrics[f"test/{name}"] == math.fsum(one[name] for one in scores) / 2
    assert not [name for name in runner.metrics if name.startswith("temperature")]
    values = json.loads((runner.entries["evaluate"].folder / "evaluation.json").read_text())
    assert method in values["reliability"] and method not in values["temperatures"]
    assert (runner.entries["evaluate"].folder / "reliability.png").stat().st_size > 10_000


def test_calibrators_are_stored_only_where_a_temperature_does_not_say_it_all(finish):
    for method in METHODS:
        files = {name.partition("/")[0] for name in finish(method).entries["calibrate"].files}
        assert files == ({"calibration.json", "calibrators"} if method in OTHERS else {"calibration.json"})


@pytest.mark.parametrize("method", TEMPERATURES)
def test_metrics_are_means_over_the_networks_of_the_stored_logits(method, finish):
    runner = finish(method)
    logits, temperatures = logits_of(runner), temperatures_of(runner)
    eces = [
        expected_calibration_error(logits["test_logits"][i] / temperatures[i], logits["test_labels"]) for i in range(2)
    ]
    assert runner.metrics["test/ece"] == pytest.approx(sum(eces) / 2, abs=1e-5)
    assert runner.metrics["test/ece_std"] == pytest.approx(abs(eces[0] - eces[1]) / math.sqrt(2), abs=1e-5)
    assert runner.metrics["temperature"] == pytest.approx(sum(temperatures) / 2)


@pytest.mark.parametrize(
    ("method", "split", "bounds"),
    [("ts_train", "train", (1.0, 20.0)), ("ts_holdout", "held", (0.05, 20.0)), ("ts_val", "val", (0.05, 20.0))],
)
def test_a_fit_sees_the_logits_of_its_own_images(method, split, bounds, finish):
    runner = finish(method)
    logits = logits_of(runner)
    expected = [
        fit_temperature(logits[f"{split}_logits"][i], logits[f"{split}_labels"], bounds).temperature for i in range(2)
    ]
    assert temperatures_of(runner) == expected


def test_none_is_raw(finish):
    metrics = finish("none").metrics
    assert metrics["temperature"] == 1.0
    assert all(metrics[f"test/{name}"] == metrics[f"test/raw/{name}"] for name in ("ece", "nll", "brier"))


def test_masking_nothing_is_temperature_scaling_on_the_training_images_to_the_bit(finish):
    for bounds in ({}, {"calibrate__t_min": 0.05}):
        plain, masked = finish("ts_train", **bounds), finish("mts", calibrate__mask__ratio=0.0, **bounds)
        assert temperatures_of(masked) == temperatures_of(plain)
        assert masked.metrics["test/nll"] == plain.metrics["test/nll"]


def test_every_evaluation_shows_the_same_references(finish):
    runs = [finish(method).metrics for method in ("none", "ts_train", "ts_val", "mts")]
    own = {"ts_train": finish("ts_train").metrics, "ts_val": finish("ts_val").metrics}
    for metrics in runs:
        for reference, theirs in own.items():
            assert metrics[f"test/{reference}/nll"] == theirs["test/nll"]
        assert metrics["test/raw/nll"] == runs[0]["test/nll"]
    assert own["ts_val"]["val/nll"] <= min(metrics["val/nll"] for metrics in runs)


def test_trials_that_differ_in_calibration_share_the_rest(finish):
    runners = [finish(method) for method in ("none", "ts_train", "ts_val", "mts")]
    assert len({runner.keys["train"] for runner in runners}) == 1
    assert sum("train" not in runner.cache_hits for runner in runners) <= 1
    assert finish("ts_holdout").keys["distill"] == runners[0].keys["distill"]
    assert finish("ts_holdout").keys["train"] != runners[0].keys["train"]


def test_cross_validated_scaling_fits_one_temperature_on_the_images_left_out(finish):
    runner = finish("ts_cv")
    folds = load_file(runner.entries["folds"].folder / "folds.safetensors")
    expected = fit_temperature(folds["logits"], folds["labels"], (0.05, 20.0)).temperature
    assert temperatures_of(runner) == [expected, expected]
    assert runner.metrics["folds/accuracy"] == accuracy(folds["logits"], folds["labels"])
    assert list(runner.keys) == ["distill", "train", "folds", "calibrate", "evaluate"]


def test_both_methods_of_folds_share_them_and_the_networks(finish):
    cv, distilled = finish("ts_cv"), finish("mts_distilled")
    assert cv.keys["folds"] == distilled.keys["folds"] and cv.keys["train"] == finish("none").keys["train"]
    assert "folds" in cv.cache_hits or "folds" in distilled.cache_hits


def test_the_ratio_from_distilled_images_meets_the_accuracy_of_the_folds(finish):
    runner = finish("mts_distilled", calibrate__draws=3)
    values = runner.entries["calibrate"].meta["values"]
    assert values["cross_validated_accuracy"] == runner.metrics["folds/accuracy"]
    assert runner.metrics["mask_ratio"] == values["mask_ratio"] and runner.metrics["mask_ratio_at_end"] == 0.0
    above = max(ratio for ratio, right in values["masked_accuracies"] if right > values["cross_validated_accuracy"])
    below = min(ratio for ratio, right in values["masked_accuracies"] if right <= values["cross_validated_accuracy"])
    assert above < values["mask_ratio"] <= below
    assert runner.metrics["masked_accuracy"] == pytest.approx(values["cross_validated_accuracy"], abs=0.1)
    same = finish("mts", calibrate__mask__ratio=values["mask_ratio"], calibrate__draws=3)
    assert temperatures_of(same) == temperatures_of(runner)
    assert same.metrics["test/nll"] == runner.metrics["test/nll"]


def test_holdout_takes_a_quarter_of_every_class_out_of_training(finish):
    logits = logits_of(finish("ts_holdout"))
    assert torch.bincount(logits["train_labels"]).tolist() == [3] * 10
    assert torch.bincount(logits["held_labels"]).tolist() == [1] * 10
    assert logits_of(finish("none"))["held_logits"].shape == (2, 0, 10)


def test_stored_networks_give_the_stored_logits(finish, datasets):
    runner = finish("none")
    dataset, logits = datasets.get(runner.config.data), logits_of(runner)
    synthetic = SyntheticSet.load(runner.entries["distill"].folder)
    networks = load_networks(load_file(runner.entries["train"].folder / "networks.safetensors"), runner.config, dataset)
    for index, network in enumerate(networks):
        assert torch.equal(predict_logits(network, dataset.test.images), logits["test_logits"][index])
        assert torch.equal(predict_logits(network, dataset.val.images), logits["val_logits"][index])
        assert torch.equal(predict_logits(network, synthetic.images), logits["train_logits"][index])


@pytest.mark.parametrize("method", ["none", "ts_val", "mts"])
def test_backbone_full_trains_on_the_real_data(method, finish):
    runner = finish(method, **FULL)
    assert list(runner.keys) == ["train", "calibrate", "evaluate"]
    dataset = load_dataset(runner.config.data)
    assert len(logits_of(runner)["train_labels"]) == len(dataset.train)
    assert runner.metrics["test/accuracy"] > 0.6


def test_mts_of_backbone_full_masks_val(finish):
    """There masking nothing is temperature scaling on val."""
    masked = finish("mts", calibrate__mask__ratio=0.0, calibrate__t_min=0.05, **FULL)
    assert temperatures_of(masked) == temperatures_of(finish("ts_val", **FULL))


def test_without_val_there_are_no_val_metrics(tmp_path, make_trial, environment):
    config = make_trial(**BASE, data__validation_fraction=0.0)
    points = []
    metrics = run_trial(config, tmp_path, environment=environment, on_advance=lambda a: points.append(a.point))
    assert config.calibrate.method == "mts"
    assert {"test/ece", "test/raw/ece", "test/ts_train/ece", "temperature", "masked_accuracy"} <= metrics.keys()
    assert not [name for name in metrics if name.startswith("val/") or "ts_val" in name]
    points = [point for point in points if point is not None]
    assert [point["progress"] for point in points] == [0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert not [name for point in points for name in point if name.startswith("val/")]
