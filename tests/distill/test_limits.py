"""Loops that diverge are stopped in the iteration in which they do, and the limits that hold their updates."""

import math
import re

import pytest
import torch

from ddcal.config import DistillConfig
from ddcal.config.resolved import resolve_distill
from ddcal.distill import distill, make_distiller
from ddcal.distill.experts import ExpertTraining
from ddcal.distill.limits import clipped, limited
from ddcal.distill.mtt import LOWEST_RATE
from ddcal.divergence import LOSS_LIMIT, VALUE_LIMIT, loss_problem, value_problem
from ddcal.errors import DivergedError

LEARNING = ("dc", "dsa", "dm", "mtt", "rtp")
RATES = {
    "dc": {"matching": {"image_lr": 1e9}},
    "dsa": {"matching": {"image_lr": 1e9}},
    "dm": {"dm": {"image_lr": 1e9}},
    "mtt": {"mtt": {"image_lr": 1e9}},
    "rtp": {"rtp": {"lr": 1e9}},
}


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.0, ""),
        (3e6, ""),
        (3.1e6, "loss 3.1e.06, more than 1e.06 times the usual 3$"),
        (math.nan, "loss nan$"),
        (math.inf, "loss inf$"),
        (-math.inf, "loss -inf$"),
    ],
)
def test_what_is_wrong_with_a_loss(loss, words):
    found = loss_problem("loss", loss, 3.0)
    assert re.match(words, found) and bool(words) == bool(found)
    assert LOSS_LIMIT == 1e6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2 * VALUE_LIMIT, -2 * VALUE_LIMIT])
def test_one_value_among_many_is_seen(value):
    fine = torch.full((3, 4), -VALUE_LIMIT)
    broken = fine.clone()
    broken[1, 2] = value
    assert value_problem("a value", [fine, fine]) == ""
    assert value_problem("a value", [fine, broken, fine]).startswith(f"a value reached {abs(value):g}")


@pytest.mark.parametrize("backbone", LEARNING)
def test_images_that_explode_are_caught_where_the_loss_is_fine(backbone, dataset, make_config):
    """Instance norm takes any scale: at this rate the loss stays finite for all of the iterations."""
    distiller = make_distiller(dataset, make_config(backbone, **RATES[backbone]), 0)
    with pytest.raises(
        DivergedError, match=rf"^distill: {backbone} diverged in iteration 1 of 3 \(.* reached "
    ) as seen:
        distiller.step()
    said = str(seen.value)
    assert "1e+09" in said and "distill.update_limit (off)" in said
    assert ("distill.rtp.clip (2)" if backbone == "rtp" else "distill.clip (off)") in said


@pytest.mark.parametrize("backbone", LEARNING)
def test_a_broken_loss_is_caught_at_once_and_changes_nothing(backbone, dataset, make_config, monkeypatch):
    distiller = make_distiller(dataset, make_config(backbone), 0)
    distiller.step()
    before = distiller.state()
    module = {"dc": "matching", "dsa": "matching"}.get(backbone, backbone)
    monkeypatch.setattr(f"ddcal.distill.{module}.cross_entropy", nan_loss) if backbone != "dm" else monkeypatch.setattr(
        "ddcal.distill.dm.mean_difference", lambda a, b: (a - b.mean(0)).sum() * math.nan
    )
    with pytest.raises(DivergedError, match=rf"^distill: {backbone} diverged in iteration 2 of 3 \(.*loss.* nan"):
        distiller.step()
    after = distiller.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_expert_that_diverges_is_caught_at_its_batch(dataset, make_config, monkeypatch):
    config = make_config("mtt", mtt={"experts": {"count": 1, "batch_size": 8}, "max_start": 3, "expert_epochs": 1})
    training = ExpertTraining(dataset, resolve_distill(config, dataset.name), 0, 0, torch.device("cpu"))
    training.step()
    calls = []

    def breaks(logits, labels):
        calls.append(len(labels))
        return nan_loss(logits, labels) if len(calls) == 2 else logits.logsumexp(1).mean()

    monkeypatch.setattr("ddcal.distill.experts.cross_entropy", breaks)
    with pytest.raises(DivergedError, match=r"^experts: expert 1 diverged in epoch 2 of \d+ \(loss nan at batch 2 of"):
        training.step()
    assert len(calls) == 2 and training.epoch == 1 and len(training.snapshots) == 2


def nan_loss(logits, labels, **settings):
    return logits.sum() * math.nan


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_the_networks_own_training_is_named(rate, dataset, make_config):
    config = make_config("dc", matching={"network_lr": rate, "inner": 3}, network={"norm": "none"})
    words = r"iteration 1 of 3 \(loss of the network's training on the set .*: lower distill\.matching\.network_lr \(1"
    with pytest.raises(DivergedError, match=words):
        distill(dataset, config, 0)


def test_a_students_rate_is_named(dataset, make_config):
    config = make_config("mtt", mtt={"rate": 1e12}, network={"norm": "none"})
    with pytest.raises(DivergedError, match=r"matching loss .*learned from distill\.mtt\.rate \(1e\+12\)"):
        distill(dataset, config, 0)


@pytest.mark.parametrize("backbone", LEARNING)
def test_no_number_moves_by_more_than_the_limit(backbone, dataset, make_config):
    distiller = make_distiller(dataset, make_config(backbone, update_limit=0.125, **RATES[backbone]), 0)
    learned = "memories" if backbone == "rtp" else "images"
    updates = distiller.outer if backbone in ("dc", "dsa") else 1
    before = [value.clone() for value in listed(getattr(distiller, learned))]
    distiller.step()
    moved = [(now - then).abs().max() for now, then in zip(listed(getattr(distiller, learned)), before, strict=True)]
    assert max(moved) <= updates * 0.125 + 1e-6
    assert max(moved) > 0.12  # the limit is reached at such a rate


def listed(value):
    return value if isinstance(value, list) else [value]


def test_a_students_rate_is_held_by_no_limit_of_updates_and_never_below_the_lowest(dataset, make_config):
    """The first gradient is the same with the limit and without, and so is the rate after it."""
    rates = []
    for limit in (None, 1e-4):
        distiller = make_distiller(dataset, make_config("mtt", update_limit=limit, mtt={"rate_lr": 1.0}), 0)
        before = distiller.images.clone()
        distiller.step()
        moved = float((distiller.images - before).abs().max())
        assert moved > 2e-4 if limit is None else moved <= 1.01e-4
        rates.append(distiller.learning_rate)
    assert rates[0] == rates[1] >= LOWEST_RATE
    assert abs(rates[0] - 0.05) > 1e-4


@pytest.mark.parametrize("backbone", ["dc", "dm", "mtt"])
def test_a_clip_bounds_the_first_update(backbone, dataset, make_config):
    """Without momentum an update is the rate times a gradient of at most that norm."""
    section, free = {"dc": "matching", "dm": "dm", "mtt": "mtt"}[backbone], {}
    settings = {"image_lr": 1.0, ("image_momentum" if backbone != "mtt" else "momentum"): 0.0}
    if backbone == "dc":
        settings["outer"] = 1
    for clip in (None, 1e9, 1e-3):
        distiller = make_distiller(dataset, make_config(backbone, clip=clip, **{section: settings}), 0)
        before = distiller.images.clone()
        distiller.step()
        free[clip] = (distiller.images - before).norm()
    assert free[None] > 1e-2 and free[1e9] == free[None]
    assert float(free[1e-3]) == pytest.approx(1e-3, rel=1e-2)


def test_clipping_is_over_all_tensors_together():
    gradients = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    assert all(torch.equal(a, b) for a, b in zip(clipped(gradients, 5.1), gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(clipped(gradients, None), gradients, strict=True))
    halved = clipped(gradients, 2.5)
    assert torch.allclose(halved[0], torch.tensor([1.5])) and torch.allclose(halved[1], torch.tensor([[0.0, 2.0]]))
    assert torch.equal(limited(torch.tensor([-2.0, 0.1, 2.0]), 0.5), torch.tensor([-0.5, 0.1, 0.5]))


def test_rtp_has_a_clip_of_its_own():
    with pytest.raises(ValueError, match=r"clip is 1; rtp has a limit of its own: set rtp\.clip \(2\)"):
        DistillConfig(backbone="rtp", clip=1.0)
