"""Each loss in whole trials: with every backbone, on masked sets, with images held out, and on full data (Table 2)."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ddcal.pipeline import TrialRunner, open_store

LOSSES = ["mixup", "label_smoothing", "focal"]
SMALL = {
    "real": {},
    "dc": {"distill__mask": {"ratio": 0.2}},
    "dsa": {"distill__mask": {"ratio": 0.2}},
    "dm": {"distill__mask": {"ratio": 0.2}, "distill__dm": {"real_batch": 8}},
    "mtt": {
        "distill__mask": {"ratio": 0.2},
        "distill__mtt": {"student_steps": 2, "max_start": 1, "expert_epochs": 1, "experts": {"count": 1}},
        "train__lr": 0.05,
    },
    "rtp": {"distill__mask": {"ratio": 0.2}, "distill__rtp": {"bases": 4, "steps": 2, "real_batch": 8}},
    "full": {"train__epochs": 1},
}
"""Backbone → its settings; MDT wherever there is something to mask."""

FULL = {
    "distill__backbone": "full",
    "train__epochs": 4,
    "train__batch_size": 32,
    "train__lr": 0.05,
    "train__augment": "crop_flip",
}
TABLE_2 = {
    "raw": {"calibrate__method": "none"},
    "ts_val": {"calibrate__method": "ts_val"},
    **{loss: {"calibrate__method": "none", "train__loss": loss} for loss in LOSSES},
    "mts": {"calibrate__method": "mts"},
}
"""The methods of the paper's Table 2, FDNNs all of them."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(tmp_path_factory.mktemp("losses"))


@pytest.fixture(scope="module")
def train(store, make_trial, environment, datasets):
    """Run a trial up to its networks."""

    def run(**changes):
        runner = TrialRunner(make_trial(train__networks=1, **changes), store, environment, datasets=datasets)
        while "train" not in runner.entries:
            runner.advance()
        runner.close()
        return runner

    return run


@pytest.fixture(scope="module")
def table(store, make_trial, environment, datasets):
    """Table 2: method → its finished trial."""
    runners = {}
    for method, changes in TABLE_2.items():
        runners[method] = TrialRunner(make_trial(**FULL, **changes), store, environment, datasets=datasets)
        runners[method].run()
    return runners


def logits_of(runner):
    return load_file(runner.entries["train"].folder / "logits.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SMALL)
def test_every_loss_trains_networks_of_its_own_on_the_same_set(backbone, train):
    settings = {"distill__backbone": backbone, "distill__iterations": 1, "distill__probe__points": 0, **SMALL[backbone]}
    runners = [train(train__loss=loss, **settings) for loss in ["cross_entropy", *LOSSES]]
    assert len({runner.keys.get("distill") for runner in runners}) == 1
    assert len({runner.keys["train"] for runner in runners}) == 4
    results = [logits_of(runner) for runner in runners]
    for logits in results:
        assert bool(torch.isfinite(logits["test_logits"]).all())
        assert torch.equal(logits["train_labels"], results[0]["train_labels"])
    assert len({tuple(logits["test_logits"].flatten()[:20].tolist()) for logits in results}) == 4


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_leave_held_out_images_alone(loss, train):
    settings = {"distill__backbone": "real", "distill__ipc": 4, "train__holdout": 0.25}
    logits, usual = (logits_of(train(train__loss=name, **settings)) for name in (loss, "cross_entropy"))
    assert torch.bincount(logits["train_labels"]).tolist() == [3] * 10
    assert torch.bincount(logits["held_labels"]).tolist() == [1] * 10
    assert not torch.equal(logits["held_logits"], usual["held_logits"])


@pytest.mark.slow
def test_the_methods_of_table_2_share_one_split(table, datasets):
    """And train on nothing but it; what is fitted is fitted on val, which no network was trained on."""
    dataset = datasets.get(table["raw"].config.data)
    for runner in table.values():
        assert runner.config.data == table["raw"].config.data
        assert list(runner.keys) == ["train", "calibrate", "evaluate"]
        logits = logits_of(runner)
        for split in ("train", "val", "test"):
            assert torch.equal(logits[f"{split}_labels"], getattr(dataset, split).labels)
        assert len(logits["held_labels"]) == 0


def test_after_training_methods_of_table_2_are_fitted_to_the_raw_networks(table):
    train_keys = {method: runner.keys["train"] for method, runner in table.items()}
    assert train_keys["raw"] == train_keys["ts_val"] == train_keys["mts"]
    assert len(set(train_keys.values())) == 1 + len(LOSSES)
    raw = table["raw"].metrics
    for method in ("ts_val", "mts"):
        metrics = table[method].metrics
        assert metrics["test/raw/ece"] == raw["test/ece"]
        assert metrics["test/accuracy"] == raw["test/accuracy"]
    fits = json.loads((table["mts"].entries["calibrate"].folder / "calibration.json").read_text())["fits"]
    assert all(fit["masked_accuracy"] < raw["val/accuracy"] for fit in fits)


def test_every_method_of_table_2_is_far_above_chance(table):
    assert min(runner.metrics["val/accuracy"] for runner in table.values()) > 0.5
