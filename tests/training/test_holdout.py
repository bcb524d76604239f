import pytest
import torch
from pydantic import ValidationError

from ddcal.config import TrialConfig
from ddcal.config.trial import held_out_per_class
from ddcal.training import split_holdout

COUNTS = [(10, 0.1, 1), (50, 0.1, 5), (30, 0.1, 3), (2, 0.1, 1), (10, 0.0, 0), (5, 0.1, 1), (10, 0.25, 3), (3, 0.5, 2)]


@pytest.mark.parametrize(("ipc", "holdout", "held"), COUNTS)
def test_held_out_is_ipc_minus_the_floor_of_the_rest(ipc, holdout, held):
    assert held_out_per_class(ipc, holdout) == held


@pytest.mark.parametrize(("ipc", "holdout", "held"), COUNTS)
def test_both_parts_are_disjoint_complete_and_balanced(ipc, holdout, held):
    labels = torch.arange(4).repeat_interleave(ipc)
    kept, held_out = split_holdout(labels, held_out_per_class(ipc, holdout), seed=0)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(4 * ipc))
    assert torch.bincount(labels[held_out], minlength=4).tolist() == [held] * 4
    assert torch.bincount(labels[kept], minlength=4).tolist() == [ipc - held] * 4


def test_one_image_a_class_cannot_be_held_out():
    with pytest.raises(ValidationError, match=r"train\.holdout 0\.1 leaves no image to train on at distill\.ipc 1"):
        TrialConfig.model_validate({"distill": {"ipc": 1}, "train": {"holdout": 0.1}})


def test_the_seed_decides_and_a_larger_holdout_contains_the_smaller():
    labels = torch.arange(3).repeat_interleave(10)
    draws = [set(split_holdout(labels, count, seed)[1].tolist()) for count, seed in ((2, 0), (2, 0), (4, 0), (2, 1))]
    assert draws[0] == draws[1] != draws[3]
    assert draws[0] < draws[2]


def test_labels_may_be_in_any_order():
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    kept, held = split_holdout(labels, 1, seed=3)
    assert sorted(labels[held].tolist()) == [0, 1]
    assert kept.tolist() == sorted(set(range(6)) - set(held.tolist()), key=lambda i: (int(labels[i]), i))
