"""Losses beside numbers worked out by hand, loops, and the cross-entropy that each of them is at one setting."""

import math

import pytest
import torch
from torch.nn import functional as F

from ddcal.config import TrainConfig
from ddcal.seeding import generator
from ddcal.training.losses import focal_loss, make_loss, smoothed_cross_entropy

# Softmax of log(p) is p: probabilities that can be read off.
PROBABILITIES = [[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]
LABELS = [0, 1]


def logits_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log() + 3.0  # a constant a row changes nothing


def random_batch(count=7, classes=5, scale=3.0):
    stream = generator(0, "test", "losses")
    logits = scale * torch.randn(count, classes, generator=stream, dtype=torch.float64)
    return logits, torch.randint(classes, (count,), generator=stream)


def probability(row, label):
    """Of a class, without torch."""
    row = [math.exp(value - max(row)) for value in row]
    return row[label] / sum(row)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        # p = 0.1 and 0.25 of the true classes; −(1−p)^γ ln p by hand
        (0.0, (2.302585 + 1.386294) / 2),
        (1.0, (0.9 * 2.302585 + 0.75 * 1.386294) / 2),
        (3.0, (0.729 * 2.302585 + 0.421875 * 1.386294) / 2),
        (None, (0.59049 * 2.302585 + 0.421875 * 1.386294) / 2),  # 0.1 < 0.2 takes γ 5, 0.25 takes γ 3
    ],
)
def test_focal_by_hand(gamma, expected):
    loss = focal_loss(logits_of(PROBABILITIES), torch.tensor(LABELS), gamma)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_by_hand():
    """ε = 0.3 over three classes: targets of 0.8 and 0.1."""
    expected = -(0.8 * math.log(0.1) + 0.1 * math.log(0.2) + 0.1 * math.log(0.7)) / 2
    expected -= (0.1 * math.log(0.5) + 0.8 * math.log(0.25) + 0.1 * math.log(0.25)) / 2
    loss = smoothed_cross_entropy(logits_of(PROBABILITIES), torch.tensor(LABELS), 0.3)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0, None])
def test_focal_is_the_loop(gamma):
    logits, labels = random_batch(count=40)
    total, hard = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = probability(row, label)
        hard += p < 0.2
        power = (5.0 if p < 0.2 else 3.0) if gamma is None else gamma
        total -= (1.0 - p) ** power * math.log(p)
    assert 5 < hard < 35, "both gammas are tried"
    assert float(focal_loss(logits, labels, gamma)) == pytest.approx(total / 40, rel=1e-10)


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.9])
def test_label_smoothing_is_the_loop(epsilon):
    logits, labels = random_batch()
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for index in range(len(row)):
            total -= ((1.0 - epsilon) * (index == label) + epsilon / len(row)) * math.log(probability(row, index))
    assert float(smoothed_cross_entropy(logits, labels, epsilon)) == pytest.approx(total / len(labels), rel=1e-10)


LOSSES = {
    "cross_entropy": {},
    "mixup": {"loss": "mixup"},
    "label_smoothing": {"loss": "label_smoothing"},
    "focal": {"loss": "focal"},
    "focal 0.5": {"loss": "focal", "focal": {"gamma": 0.5}},
    "focal sample dependent": {"loss": "focal", "focal": {"sample_dependent": True}},
}


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"loss": "mixup", "mixup": {"alpha": 9.0}}, True),  # of each partner
        ({"loss": "focal", "focal": {"gamma": 0.0}}, True),
        ({"loss": "label_smoothing", "label_smoothing": {"epsilon": 0.0}}, True),
        ({"loss": "focal"}, False),
        ({"loss": "label_smoothing"}, False),
    ],
)
def test_what_the_cross_entropy_is(settings, same):
    for scale in (0.1, 3.0, 100.0) if same else (0.1, 3.0):
        logits, labels = random_batch(scale=scale)
        logits.requires_grad_()
        loss = make_loss(TrainConfig.model_validate(settings))(logits, labels)
        expected = F.cross_entropy(logits, labels)
        assert math.isclose(loss.item(), expected.item(), rel_tol=1e-12) == same
        (gradient,), (wanted,) = (torch.autograd.grad(value, [logits]) for value in (loss, expected))
        assert torch.allclose(gradient, wanted, rtol=1e-10, atol=1e-14) == same


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
def test_gradients(settings):
    logits, labels = random_batch(count=4)
    loss = make_loss(TrainConfig.model_validate(settings))
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), (logits.requires_grad_(),))


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_networks_have_finite_losses_and_gradients(settings, dtype):
    """A probability of exactly 1 and one that is 0 in floating point, right and wrong."""
    logits = torch.tensor([[0.0, 2000.0], [0.0, 2000.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = make_loss(TrainConfig.model_validate(settings))(logits, torch.tensor([0, 1, 1]))
    loss.backward()
    assert 600.0 < float(loss.detach()) < 700.0, "a sure mistake costs what it does in the cross-entropy, or nearly"
    assert bool(torch.isfinite(logits.grad).all()) and float(logits.grad[0, 1]) > 0.2


def test_near_certainty_the_focal_loss_keeps_its_digits():
    """1 − p = 2⁻³⁰, which float32 cannot tell from 0 as a difference; −p'ln p ≈ 2⁻³⁰."""
    rest = 2.0**-30
    logits = torch.tensor([[0.0, math.log(1.0 / rest)]], dtype=torch.float32)
    assert float(focal_loss(logits, torch.tensor([1]), 1.0)) == pytest.approx(rest**2, rel=1e-4)


def test_the_sample_dependent_gamma_changes_at_a_fifth():
    for p, power in ((0.199, 5.0), (0.201, 3.0)):
        loss = focal_loss(logits_of([[p, 1.0 - p]]), torch.tensor([0]), None)
        assert float(loss) == pytest.approx(-((1.0 - p) ** power) * math.log(p), rel=1e-9)
