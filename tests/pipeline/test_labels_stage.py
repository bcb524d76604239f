"""The labels stage: what experts answer to distilled images, who has it, what it changes, and what is shared."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from ddcal.calibration import fit_temperature, score_probabilities
from ddcal.config import DataConfig, TrialConfig, resolve
from ddcal.distill import SyntheticSet
from ddcal.distill.experts import train_experts
from ddcal.networks import predict_logits
from ddcal.pipeline import DatasetCache, TrialRunner, open_store, stage_keys
from ddcal.pipeline.compute.labels import expert_networks, labelled_set
from ddcal.pipeline.compute.train import logits_of
from ddcal.pipeline.stages import STAGES

EXPERTS = {"batch_size": 64, "epochs": 3}
BASE = {"distill__backbone": "real", "distill__ipc": 3, "distill__mtt__experts": EXPERTS, "train__networks": 1}
LABELS = {"source": "experts", "experts": 2, "epoch": 2, "temperature": 1.5}
BATCHES = {"distill__mtt": {"student_steps": 2, "max_start": 2, "expert_epochs": 1, "image_lr": 9.0}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def start(make_trial, environment, datasets, store):
    def make(labels=LABELS, where=None, target="ddnn", **changes):
        trial = make_trial(**{**BASE, **changes}, labels=labels)
        return TrialRunner(trial, where or store, environment, datasets=datasets, target=target)

    return make


@pytest.fixture(scope="module")
def labelled(start):
    runner = start(calibrate__method="ts_cv")
    runner.run()
    return runner


@pytest.fixture(scope="module")
def answers(labelled):
    """Written out: experts trained here and now, and the mean of their probabilities."""
    distill = labelled.config.distill
    experts = distill.mtt.experts.model_copy(update={"count": 2})
    distill = distill.model_copy(update={"mtt": distill.mtt.model_copy(update={"experts": experts})})
    trained = train_experts(labelled.dataset, distill, 0, torch.device("cpu"))

    def make(images, epoch, temperature):
        labels = labelled.config.labels.model_copy(update={"epoch": epoch})
        config = labelled.config.model_copy(update={"labels": labels})
        networks = expert_networks(trained, config, labelled.dataset, torch.device("cpu"))
        logits = torch.stack([predict_logits(network, images) for network in networks]).double()
        return (logits / temperature).softmax(2).mean(0)

    return make


def test_labels_are_the_mean_answer_of_the_experts(labelled, answers):
    synthetic = labelled_set(labelled.place)
    expected = answers(synthetic.images, 2, 1.5)
    assert synthetic.labels.shape == (30, 10) and torch.allclose(synthetic.labels.double(), expected, atol=1e-6)
    others = [answers(synthetic.images, *other) for other in ((3, 1.5), (2, 1.0))]
    assert all(float((synthetic.labels - other).abs().max()) > 1e-3 for other in others)
    plain = SyntheticSet.load(labelled.entries["distill"].folder)
    assert torch.equal(synthetic.images, plain.images) and plain.labels.ndim == 1
    agreement = float((synthetic.labels.argmax(1) == plain.labels).double().mean())
    assert labelled.metrics["labels/agreement"] == agreement


def test_networks_train_and_calibrate_on_them(labelled):
    logits = logits_of(labelled.place)
    assert torch.equal(logits["train_labels"], labelled_set(labelled.place).labels)
    folds = load_file(labelled.entries["folds"].folder / "folds.safetensors")
    assert torch.equal(folds["labels"], logits["train_labels"])
    wanted = fit_temperature(folds["logits"], folds["labels"], (0.05, 20.0)).temperature
    assert labelled.metrics["temperature"] == wanted


def test_the_teacher_is_scored_beside_the_student(labelled, answers):
    metrics, dataset = labelled.metrics, labelled.dataset
    for split in ("val", "test"):
        part = getattr(dataset, split)
        expected = score_probabilities(answers(part.images, 2, 1.5), part.labels, 15)
        for name in ("ece", "nll", "accuracy", "brier"):
            assert metrics[f"{split}/teacher/{name}"] == pytest.approx(expected[name], abs=1e-5), name
    assert metrics["val/teacher/nll"] != metrics["val/nll"]


def test_stages_are_shared_with_trials_that_differ_in_labels(labelled, start):
    """Hard labels have the same set; another temperature has the same experts, and labels anew."""
    hard, softer = start(labels={}), start(labels={**LABELS, "temperature": 4.0})
    for runner in (hard, softer):
        runner.run()
    assert list(hard.keys) == ["distill", "train", "calibrate", "evaluate"] and hard.cache_hits == ["distill"]
    assert list(softer.keys) == ["experts", "distill", "labels", "train", "calibrate", "evaluate"]
    assert softer.cache_hits == ["experts", "distill"]
    assert not any(name.startswith(("labels/", "val/teacher")) for name in hard.metrics)
    assert softer.metrics["labels/confidence"] < labelled.metrics["labels/confidence"]


def test_experts_are_asked_about_real_images_once(labelled, start, answers, monkeypatch):
    """In one process and on one dataset; what they said is scored at each trial's own temperature."""
    asked = []

    def counted(network, images):
        asked.append(len(images))
        return predict_logits(network, images)

    monkeypatch.setattr("ddcal.pipeline.compute.labels.predict_logits", counted)
    runner = start(labels={**LABELS, "temperature": 2.5})
    runner.run()
    dataset, few = runner.dataset, 30
    assert asked == [few, few]
    found = load_file(runner.entries["labels"].folder / "labels.safetensors")
    for split in ("val", "test"):
        assert torch.allclose(found[split].double(), answers(getattr(dataset, split).images, 2, 2.5), atol=1e-6)
    earlier = start(labels={**LABELS, "epoch": 1})
    earlier.run()
    assert asked[2:] == [few, few, len(dataset.val), len(dataset.val), len(dataset.test), len(dataset.test)]


def test_what_is_remembered_is_of_the_dataset_that_is_loaded_and_bounded(monkeypatch):
    datasets, computed = DatasetCache(), []

    def ask(name, numbers=4):
        def compute():
            computed.append(name)
            return torch.zeros(numbers)

        return datasets.remembered(name, compute)

    digits = DataConfig(name="digits")
    datasets.get(digits)
    assert ask("a") is ask("a") and computed == ["a"]
    datasets.get(digits.model_copy(update={"train_images": 500}))
    ask("a")
    assert computed == ["a", "a"]
    monkeypatch.setattr("ddcal.pipeline.place.REMEMBERED_BYTES", 40)  # two of four numbers
    for name in ("b", "a", "c", "a", "b"):
        ask(name)
    assert computed == ["a", "a", "b", "c", "b"], "the one that was not asked for longest is forgotten"
    ask("large", 100)
    ask("large", 100)
    assert computed[5:] == ["large"]


def test_the_same_again_is_the_same_to_the_bit(labelled, start, tmp_path):
    again = start(calibrate__method="ts_cv", where=open_store(tmp_path))
    again.run()
    assert again.cache_hits == [] and again.metrics == labelled.metrics
    for stage in labelled.keys:
        assert again.entries[stage].files == labelled.entries[stage].files, stage


def test_mtt_labels_by_the_experts_that_it_matches(make_trial, environment):
    mtt = {**BATCHES["distill__mtt"], "experts": {"count": 3, **EXPERTS}}
    trial = make_trial(**{**BASE, "distill__backbone": "mtt", "distill__mtt": mtt})
    other = make_trial(**{**BASE, "distill__backbone": "mtt", "distill__mtt": mtt}, labels={"source": "experts"})
    plain, labelled = (stage_keys(one, "0" * 64, environment) for one in (trial, other))
    assert {name: labelled[name] for name in ("experts", "distill")} == {n: plain[n] for n in ("experts", "distill")}
    assert labelled["train"] != plain["train"] and "labels" not in plain
    assert resolve(other).labels.epoch == 3, "their last epoch"


def test_labels_that_mtt_learned_are_trained_on(start, tmp_path):
    mtt = {**BATCHES["distill__mtt"], "label_lr": 5.0, "experts": {"count": 1}}
    changes = {"distill__backbone": "mtt", "distill__ipc": 2, "distill__mtt": mtt}
    changes |= {"distill__mtt__experts": {"count": 1}, "calibrate__method": "ts_cv"}
    runner = start(labels={}, where=open_store(tmp_path), **changes)
    runner.run()
    synthetic = SyntheticSet.load(runner.entries["distill"].folder)
    assert runner.config.soft_labels and synthetic.labels.shape == (20, 10)
    kept = torch.isin(logits_of(runner.place)["train_labels"], synthetic.labels)
    assert kept.shape == (20, 10) and bool(kept.all())
    assert "labels" not in runner.keys and not any("teacher" in name for name in runner.metrics)
    plain = start(labels={}, **{**changes, "distill__mtt": {**mtt, "label_lr": None}})
    assert plain.keys["experts"] == runner.keys["experts"] and plain.keys["distill"] != runner.keys["distill"]
    assert "label_lr" not in STAGES["distill"].settings(plain.config)["mtt"]


def test_a_distilling_target_has_neither_labels_nor_experts(start):
    assert list(start(target="distill").keys) == ["distill"]


def test_a_trial_with_the_labels_of_its_set_says_nothing_of_labels(make_trial):
    plain = make_trial(**BASE)
    assert "labels" not in plain.model_dump() and plain.soft_labels is False
    assert "kl" not in plain.model_dump()["train"] and "labels_are" not in plain.model_dump()["distill"]["file"]
    assert "kl" in make_trial(**BASE, train__loss="kl").model_dump()["train"]
    soft = make_trial(**BASE, labels=LABELS)
    assert soft.model_dump()["labels"] == LABELS and soft.soft_labels is True
    assert TrialConfig.model_validate_json(soft.model_dump_json()) == soft
    assert TrialConfig.model_validate(resolve(soft).model_dump()) == resolve(resolve(soft))


@pytest.mark.parametrize(
    ("changes", "labels", "said"),
    [
        ({"distill__backbone": "full"}, {}, "distill.backbone is 'full'"),
        ({"distill__mtt__experts": {}}, {"epoch": None}, "labels.epoch is missing"),
        ({}, {"epoch": 4}, "labels.epoch is 4, but experts end after epoch 3"),
        ({"distill__network": {"norm": "batch"}}, {}, "distill.network.norm is 'batch'"),
        ({"network__norm": "batch"}, {}, "distill.network.norm is 'batch'"),
        ({"train__loss": "focal"}, {}, "train.loss is 'focal'"),
        (
            {"distill__backbone": "mtt", "distill__mtt": {"experts": {"count": 1}}},
            {},
            "labels.experts is 2, but distill.mtt.experts.count is 1",
        ),
        (
            {"distill__backbone": "mtt", "distill__mtt": {"max_start": 2, "expert_epochs": 1}},
            {"epoch": 3},
            "labels.epoch is 3, but experts end after epoch 2",
        ),
    ],
)
def test_labels_that_cannot_be_are_refused(changes, labels, said, make_trial):
    with pytest.raises(ValueError, match=re.escape(said)):
        make_trial(**{**BASE, **changes}, labels={**LABELS, **labels})


def test_what_is_wrong_with_labels_is_said_at_once(make_trial):
    changes = {"distill__mtt__experts": {}, "network__norm": "batch"}
    with pytest.raises(ValueError, match=r"labels\.epoch is missing(.|\n)*distill\.network\.norm is 'batch'"):
        make_trial(**{**BASE, **changes}, labels={**LABELS, "epoch": None})


def test_an_epoch_is_how_long_experts_are_trained_where_nothing_else_says_it(make_trial):
    trial = resolve(make_trial(**{**BASE, "distill__mtt__experts": {}}, labels=LABELS))
    assert trial.distill.mtt.experts.epochs == trial.labels.epoch == 2 and trial.experts == 2
    assert json.loads(trial.model_dump_json())["labels"]["epoch"] == 2
