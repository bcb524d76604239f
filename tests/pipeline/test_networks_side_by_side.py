"""Where the networks of a trial are trained side by side, what its keys say of it, and what a plan takes it to cost."""

import pytest
import torch

from ddcal.config import resolve
from ddcal.distill import distill
from ddcal.pipeline import Environment, measuring
from ddcal.pipeline.compute.train import TrainWork
from ddcal.pipeline.costs import Amount
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.stages.train import SMALL, side_by_side

DIGITS = SMALL // (8 * 8)
"""Of a batch, images times width that are small."""


@pytest.mark.parametrize(
    ("changes", "small"),
    [
        ({}, True),
        ({"train__networks": 1}, False),
        ({"train__networks": 100}, True),
        ({"network": {"width": 4, "norm": "none"}}, True),
        ({"network": {"width": 4, "norm": "batch"}}, False),
        ({"train__network": {"name": "mlp"}}, False),
        ({"network": {"name": "mlp", "width": 4}, "distill__network": {"name": "convnet"}}, False),
        ({"network__width": DIGITS // 20}, True),  # two images of each of ten classes
        ({"network__width": DIGITS // 20 + 1}, False),
        ({"network__width": DIGITS // 20 + 1, "train__holdout": 0.5}, True),
        ({"network__width": DIGITS // 20, "data__resolution": 16}, False),
        ({"network__width": DIGITS // 8, "train__batch_size": 8}, True),
        ({"network__width": DIGITS // 8 + 1, "train__batch_size": 8}, False),
        ({"distill__backbone": "full", "train__batch_size": DIGITS // 4}, True),
        ({"distill__backbone": "full", "train__batch_size": DIGITS // 4 + 1}, False),
        ({"data__name": "cifar10", "distill__ipc": 1}, True),
        ({"data__name": "cifar10", "distill__ipc": 10, "network__width": 32}, False),
        ({"data__name": "cifar100", "distill__ipc": 1, "train__batch_size": SMALL // 4096}, True),
        ({"data__name": "cifar100", "distill__ipc": 1, "train__batch_size": 256}, False),  # classes are in its files
        ({"data__name": "mnist", "distill__ipc": 1, "network__width": 26}, False),  # 28 px are padded to 32
        ({"data__name": "mnist", "distill__ipc": 1, "network__width": 25}, True),
        ({"data": {"name": "npz", "root": "here.npz"}}, False),
        ({"data": {"name": "image-folder", "root": "here", "resolution": 8}}, False),
        ({"distill__backbone": "file", "distill__file": {"images": "a.pt", "preprocessing": "normalized"}}, False),
    ],
    ids=str,
)
def test_small_batches_of_convnets_go_side_by_side(changes, small, make_trial):
    trial = resolve(make_trial(**changes))
    assert side_by_side(trial) == small
    assert STAGES["train"].version(trial) == (2 if small else 1)


def test_what_is_said_is_done(make_trial, datasets):
    for networks, runs in ((1, [1]), (2, [2]), (3, [3])):
        trial = resolve(make_trial(distill__backbone="real", train__networks=networks))
        dataset = datasets.get(trial.data)
        work = TrainWork(trial, dataset, distill(dataset, trial.distill, trial.seed), "cpu")
        assert [len(one) for one in work.training.runs] == runs
    wide = resolve(make_trial(distill__backbone="real", network={"width": DIGITS, "depth": 1}))
    work = TrainWork(wide, dataset, distill(dataset, wide.distill, wide.seed), "cpu")
    assert [len(one) for one in work.training.runs] == [1, 1]


def test_a_step_is_measured_side_by_side_and_counts_for_each_network(make_trial, datasets, monkeypatch):
    """Three networks that take 0.6 s together take 0.2 s each; one that goes alone takes all of its time."""
    seen = []

    def seconds_of(call, *_):
        seen.append(getattr(call, "__self__", None))
        return [call(), 0.6][1]

    monkeypatch.setattr(measuring, "seconds_of", seconds_of)
    steps = {}
    for networks in (3, 1):
        trial = resolve(make_trial(distill__backbone="real", train__networks=networks))
        cost = measuring.measure(trial, "train", datasets.get(trial.data), Environment("cpu", 1))
        steps[networks] = cost.step
        assert STAGES["train"].amount(trial) == Amount(networks, 3, 3)
    assert steps == {3: pytest.approx(0.2), 1: pytest.approx(0.6)}
    assert [len(one.networks) for one in seen if one is not None] == [3, 1]


def test_kinds_tell_how_many_are_side_by_side(make_trial):
    def kind(**changes):
        return STAGES["train"].kind(resolve(make_trial(**changes)))

    two, three = kind(), kind(train__networks=3)
    assert two != three and "2 side by side" in two.what and "3 side by side" in three.what
    wide = {"network": {"width": DIGITS}}
    assert kind(**wide) == kind(train__networks=3, **wide)
    assert "side by side" not in kind(**wide).what


def test_a_trial_stopped_in_training_goes_on_to_the_same_bits(make_trial, datasets):
    trial = resolve(make_trial(distill__backbone="real", train__networks=3, train__augment="dsa"))
    dataset = datasets.get(trial.data)
    made = distill(dataset, trial.distill, trial.seed)
    whole, part = (TrainWork(trial, dataset, made, "cpu") for _ in range(2))
    whole.step()
    part.step()
    resumed = TrainWork(trial, dataset, made, "cpu")
    resumed.restore(part.state())
    for work in (whole, resumed):
        while work.fraction < 1.0:
            work.step()
    assert resumed.curve == whole.curve
    for ours, theirs in zip(whole.training.networks, resumed.training.networks, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
