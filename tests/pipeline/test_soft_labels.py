"""Soft labels through training, cross-validation and calibration; one-hot ones to the bits of their classes."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import one_hot

from ddcal.calibration import accuracy, fit_temperature
from ddcal.config import resolve
from ddcal.distill import distill
from ddcal.pipeline import open_store
from ddcal.pipeline.compute.calibrate import calibrate
from ddcal.pipeline.compute.folds import FOLD_LOGITS, FoldsWork
from ddcal.pipeline.compute.masked import MaskedImages
from ddcal.pipeline.compute.train import LOGITS, TrainWork, training_images

METHODS = ["ts_train", "ts_holdout", "mts", "ts_cv", "mts_distilled"]
KINDS = {
    "classes": lambda labels: labels,
    "one-hot": lambda labels: one_hot(labels, 10).float(),
    "soft": lambda labels: 0.8 * one_hot(labels, 10).float() + 0.02,
}


@pytest.fixture(scope="module")
def finished(make_trial, datasets, tmp_path_factory):
    """Label kind → (logits, folds, method → what calibrate found) of the same images."""
    base = {"distill__backbone": "real", "distill__ipc": 4, "train__holdout": 0.25, "train__augment": "dsa"}
    trial = resolve(make_trial(**base, calibrate__method="ts_cv", calibrate__draws=2))
    dataset = datasets.get(trial.data)
    made = distill(dataset, trial.distill, trial.seed)
    found = {}
    for kind, labelled in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        one = dataclasses.replace(made, labels=labelled(made.labels))
        works = TrainWork(trial, dataset, one, "cpu"), FoldsWork(trial, dataset, one, "cpu")
        for work in works:
            while work.fraction < 1.0:
                work.step()
            work.write(folder)
        logits, folds = load_file(folder / LOGITS), load_file(folder / FOLD_LOGITS)
        images, labels, _, _ = training_images(trial, dataset, one)
        values = {}
        for method in METHODS:
            changes = {"method": method, "t_min": None, "t_max": None}
            config = resolve(trial.model_copy(update={"calibrate": trial.calibrate.model_copy(update=changes)}))
            masked = MaskedImages(
                config, open_store(folder), "0" * 64, lambda w=works, i=images, t=labels: (w[0].training.networks, i, t)
            )
            values[method] = calibrate(config, logits, masked, folds).values
        found[kind] = logits, folds, values
    return found


def test_one_hot_labels_change_no_bit(finished):
    logits, folds, values = finished["classes"]
    of_one_hot = finished["one-hot"]
    for ours, theirs in ((logits, of_one_hot[0]), (folds, of_one_hot[1])):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert values == of_one_hot[2]
    assert not torch.equal(logits["val_logits"], finished["soft"][0]["val_logits"])


def test_calibrations_on_distilled_images_aim_at_their_soft_labels(finished):
    logits, folds, values = finished["soft"]
    assert logits["train_labels"].shape == (30, 10) and logits["held_labels"].shape == (10, 10)
    assert folds["labels"].shape == (30, 10) and logits["val_labels"].ndim == 1
    wanted = {
        "ts_train": fit_temperature(logits["train_logits"][0], logits["train_labels"], (1.0, 20.0)),
        "ts_holdout": fit_temperature(logits["held_logits"][0], logits["held_labels"], (0.05, 20.0)),
        "ts_cv": fit_temperature(folds["logits"], folds["labels"], (0.05, 20.0)),
    }
    for method, fit in wanted.items():
        assert values[method]["fits"][0]["temperature"] == fit.temperature, method
    right = accuracy(folds["logits"], folds["labels"].argmax(1))
    assert values["mts_distilled"]["cross_validated_accuracy"] == right, "of the most probable classes"


def test_held_out_and_folded_images_are_as_many_of_every_class(finished):
    for name in ("train_labels", "held_labels"):
        assert torch.equal(finished["soft"][0][name].argmax(1), finished["classes"][0][name])
    assert torch.equal(finished["soft"][1]["folds"], finished["classes"][1]["folds"])


def test_experts_that_are_sure_and_wrong_leave_as_many_images_of_every_class(finished, make_trial, datasets, tmp_path):
    """Rows that are 0 and 1 alone, as a low temperature makes them, of which one says another class."""
    base = {"distill__backbone": "real", "distill__ipc": 4, "train__holdout": 0.25, "train__augment": "dsa"}
    trial = resolve(make_trial(**base, calibrate__method="ts_cv", calibrate__draws=2))
    dataset = datasets.get(trial.data)
    made = distill(dataset, trial.distill, trial.seed)
    wrong = made.labels.clone()
    wrong[0] = 7
    one = dataclasses.replace(made, labels=one_hot(wrong, 10).float())
    train, folds = TrainWork(trial, dataset, one, "cpu"), FoldsWork(trial, dataset, one, "cpu")
    for work in (train, folds):
        while work.fraction < 1.0:
            work.step()
        work.write(tmp_path)
    logits, found = load_file(tmp_path / LOGITS), load_file(tmp_path / FOLD_LOGITS)
    said = torch.cat([logits["train_labels"], logits["held_labels"]])
    assert sorted(said.tolist()) == sorted(wrong.tolist())
    assert torch.equal(found["folds"], finished["classes"][1]["folds"])
