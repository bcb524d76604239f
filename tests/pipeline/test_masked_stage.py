"""Logits of masked images in the store: shared by calibrations, the same bits as without, pruned with them."""

import pytest
import torch
from safetensors.torch import load_file

from ddcal.calibration import masked_temperature_scaling
from ddcal.pipeline import TrialRunner, open_store
from ddcal.pipeline.compute import masked as stage
from ddcal.pipeline.compute.distill import synthetic_of
from ddcal.pipeline.compute.train import NETWORKS, load_networks, training_images
from ddcal.pipeline.mask_sweep import sweep_trial
from ddcal.pipeline.upkeep import list_entries, prune_store, verify_store

BASE = {"distill__backbone": "real", "distill__ipc": 3, "calibrate__draws": 2, "train__epochs": 9, "train__lr": 0.1}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


@pytest.fixture
def finish(store, make_trial, environment, datasets):
    def run(**changes):
        runner = TrialRunner(make_trial(**{**BASE, **changes}), store, environment, datasets=datasets)
        while "calibrate" not in runner.entries:
            runner.advance()
        runner.close()
        return runner

    return run


@pytest.fixture
def predictions(monkeypatch):
    """Counts the passes of networks over masked images."""
    calls = []
    real = stage.masked_logits
    monkeypatch.setattr(stage, "masked_logits", lambda *arguments: calls.append(arguments[3]) or real(*arguments))
    return calls


def masked_keys(store):
    return [key for key, _ in store.keys("masked")]


def temperatures_of(runner):
    return [fit["temperature"] for fit in runner.entries["calibrate"].meta["values"]["fits"]]


def test_calibrations_that_differ_in_bounds_and_solver_predict_once(store, finish, predictions):
    first = finish()
    assert predictions == [0.9, 0.9] and len(masked_keys(store)) == 1
    for change in ({"calibrate__t_max": 9.0}, {"calibrate__t_min": 0.05}, {"calibrate__solver": "paper_lbfgs"}):
        other = finish(**change)
        assert other.keys["calibrate"] != first.keys["calibrate"]
    assert predictions == [0.9, 0.9] and len(masked_keys(store)) == 1
    for change in (
        {"calibrate__mask__ratio": 0.8},
        {"calibrate__draws": 3},
        {"calibrate__mask__unit": "pixel"},
        {"seed": 1},
        {"train__epochs": 10},
    ):
        finish(**change)
    assert len(masked_keys(store)) == 6


def test_from_the_store_or_not_the_bits_are_those_of_masked_temperature_scaling(store, finish, datasets):
    wide = {"calibrate__t_min": 0.05}
    finish()
    runner = finish(**wide)  # from the first one's logits
    dataset = datasets.get(runner.config.data)
    weights = load_file(runner.entries["train"].folder / NETWORKS)
    images, labels, _, _ = training_images(runner.config, dataset, synthetic_of(runner.place))
    expected = [
        masked_temperature_scaling(network, images, labels, 0.9, (0.05, 20.0), 2, 0)
        for network in load_networks(weights, runner.config, dataset)
    ]
    assert temperatures_of(runner) == [fit.temperature for fit in expected]
    fits = runner.entries["calibrate"].meta["values"]["fits"]
    assert [fit["draws"] for fit in fits] == [list(fit.draws) for fit in expected]
    assert [fit["masked_accuracy"] for fit in fits] == [fit.masked_accuracy for fit in expected]


def test_without_a_mask_nothing_is_kept(store, finish):
    finish(calibrate__mask__ratio=0.0)
    assert masked_keys(store) == []


def test_large_logits_are_not_kept_and_give_the_same(store, finish, monkeypatch, tmp_path, make_trial, environment):
    monkeypatch.setattr("ddcal.pipeline.compute.masked.KEPT_BYTES", 100)
    runner = TrialRunner(make_trial(**BASE), open_store(tmp_path / "other"), environment)
    while runner._plan[0] != "calibrate":
        runner.advance()
    small = stage.masked_images(runner.place, keep=100)
    logits, labels = small.logits(0.9, 2)
    assert small.used == [] and masked_keys(runner.store) == []
    large = stage.masked_images(runner.place, keep=None)
    again, _ = large.logits(0.9, 2)
    assert torch.equal(logits, again) and masked_keys(runner.store) == large.used
    assert logits.shape == (2, 2, 30, 10) and labels.shape == (30,)
    third, _ = stage.masked_images(runner.place).logits(0.9, 2)
    assert torch.equal(third, logits)


def test_a_ratio_from_folds_shares_the_ratios_that_it_looked_at(store, finish, predictions):
    first = finish(calibrate__method="mts_distilled")
    looked = len(predictions)
    finish(calibrate__method="mts_distilled", calibrate__t_max=9.0)
    assert predictions[looked:] == [0.0, 0.0]  # two networks, without a mask
    ratio = first.entries["calibrate"].meta["values"]["mask_ratio"]
    finish(calibrate__mask__ratio=ratio)
    assert len(predictions) == looked + 2


def test_pruning_keeps_them_for_what_refers_to_their_calibration(store, finish):
    kept, other = finish(), finish(calibrate__mask__ratio=0.5)
    members = {runner: runner.entries["calibrate"].meta["members"] for runner in (kept, other)}
    assert sorted(masked_keys(store)) == sorted(members[kept] + members[other])
    assert all(fault is None for _, _, fault in verify_store(store))
    listed = {entry.what for entry in list_entries(store) if entry.stage == "masked"}
    assert listed == {f"digits real ipc 3 logits at mask ratio {ratio} seed 0" for ratio in (0.9, 0.5)}
    removed = prune_store(store, set(kept.keys.values()))
    assert {entry.key for entry in removed} == {
        *members[other],
        other.keys["calibrate"],
    }
    assert masked_keys(store) == members[kept]


def test_a_sweep_of_a_trial_shares_them(store, finish, predictions, make_trial, environment):
    ratios, bounds = [0.0, 0.5, 0.9], [(1.0, 20.0), (0.05, 20.0)]
    finish()
    rows = sweep_trial(make_trial(**BASE), store, environment, ratios=ratios, bounds=bounds, draws=2)
    assert predictions == [0.9, 0.9, 0.0, 0.0, 0.5, 0.5]
    assert len(rows) == 2 * 3 * 2
    for row in (row for row in rows if row.fit.bounds == (1.0, 20.0)):
        runner = finish(calibrate__mask__ratio=row.fit.ratio)
        while not runner.done:
            runner.advance()
        fit = runner.entries["calibrate"].meta["values"]["fits"][row.network]
        assert row.fit.temperature == pytest.approx(fit["temperature"], rel=1e-9)
        assert row.fit.masked_accuracy == fit["masked_accuracy"]
        of_ratio = [one.fit for one in rows if (one.fit.ratio, one.fit.bounds) == (row.fit.ratio, (1.0, 20.0))]
        mean = sum(one.metrics["test/nll"] for one in of_ratio) / 2
        assert mean == pytest.approx(runner.metrics["test/nll"], rel=1e-9)
    assert len(predictions) == 6 + 2  # ratio 0 is not kept: the trial's own look


def test_a_damaged_entry_is_predicted_again(store, finish, predictions, caplog):
    first = finish()
    (key,) = masked_keys(store)
    path = store.root / "masked" / key / "masked.safetensors"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    store._verified.clear()
    second = finish(calibrate__t_max=19.0)
    assert len(predictions) == 4 and "is damaged" in caplog.text
    assert temperatures_of(second) == pytest.approx(temperatures_of(first), rel=1e-12)
