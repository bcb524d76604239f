"""Losses beside numbers worked out by hand, loops, and the cross-entropy that each of them is at one setting."""

import math

import pytest
import torch
from torch.nn import functional as F

from ddcal.config import TrainConfig
from ddcal.seeding import generator
from ddcal.training.losses import focal_loss, make_loss, smoothed_cross_entropy, usual_loss

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
    "kl": {"loss": "kl"},
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
        ({"loss": "kl"}, True),
        ({"loss": "kl", "kl": {"temperature": 2.0}}, False),
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


# Soft labels

SOFT_LOSSES = {
    "cross_entropy": {},
    "mixup": {"loss": "mixup"},
    "label_smoothing": {"loss": "label_smoothing"},
    "kl 1": {"loss": "kl"},
    "kl 4": {"loss": "kl", "kl": {"temperature": 4.0}},
    "kl 0.5": {"loss": "kl", "kl": {"temperature": 0.5}},
}


def soft_batch(count=7, classes=5, scale=3.0):
    """Logits and labels; some probabilities are 0, and one label is a class."""
    logits, _ = random_batch(count, classes, scale)
    stream = generator(1, "test", "losses")
    labels = torch.softmax(2.0 * torch.randn(count, classes, generator=stream, dtype=torch.float64), 1)
    labels[0] = torch.eye(classes, dtype=torch.float64)[2]
    labels[1, 3] = 0.0
    return logits, labels / labels.sum(1, keepdim=True)


def at_temperature(labels, temperature):
    """q^(1/τ) over its sum, without logarithms."""
    powers = labels ** (1.0 / temperature)
    return powers / powers.sum(1, keepdim=True)


@pytest.mark.parametrize("settings", SOFT_LOSSES.values(), ids=SOFT_LOSSES)
def test_soft_losses_and_their_gradients_are_the_closed_form(settings):
    """Values by loops, gradients by (p − q) / N and τ (p_τ − q_τ) / N."""
    config = TrainConfig.model_validate(settings)
    logits, labels = soft_batch()
    logits.requires_grad_()
    loss = make_loss(config)(logits, labels)
    (gradient,) = torch.autograd.grad(loss, [logits])
    rows, count, classes = logits.tolist(), len(labels), labels.shape[1]
    tau = config.kl.temperature if config.loss == "kl" else 1.0
    aims = at_temperature(labels, tau) if config.loss == "kl" else labels
    if config.loss == "label_smoothing":
        aims = 0.9 * labels + 0.1 / classes
    total, slopes = 0.0, torch.zeros(count, classes, dtype=torch.float64)
    for i, (row, aim) in enumerate(zip(rows, aims.tolist(), strict=True)):
        scaled = [value / tau for value in row]
        for k in range(classes):
            p = probability(scaled, k)
            total -= tau**2 * aim[k] * math.log(p) / count
            if config.loss == "kl" and aim[k] > 0.0:
                total += tau**2 * aim[k] * math.log(aim[k]) / count
            slopes[i, k] = tau * (p - aim[k]) / count
    assert loss.item() == pytest.approx(total, rel=1e-12)
    assert float((gradient - slopes).abs().max()) < 1e-12
    assert torch.autograd.gradcheck(lambda values: make_loss(config)(values, labels), (logits,))


def test_kl_at_a_temperature_is_that_of_the_teachers_logits():
    """Hinton's loss is of logits z at τ; labels hold softmax(z) alone, and give the same."""
    logits, _ = random_batch()
    teacher = 2.0 * torch.randn(7, 5, generator=generator(2, "test", "losses"), dtype=torch.float64)
    for tau in (0.5, 1.0, 3.0, 20.0):
        loss = make_loss(TrainConfig.model_validate({"loss": "kl", "kl": {"temperature": tau}}))
        wanted = F.softmax(teacher / tau, 1)
        expected = (wanted * (wanted.log() - F.log_softmax(logits / tau, 1))).sum(1).mean() * tau**2
        assert float(loss(logits, teacher.softmax(1))) == pytest.approx(float(expected), rel=1e-11)


def test_kl_of_classes_is_the_cross_entropy_at_the_temperature():
    logits, labels = random_batch()
    for tau in (1.0, 4.0):
        loss = make_loss(TrainConfig.model_validate({"loss": "kl", "kl": {"temperature": tau}}))
        expected = tau**2 * F.cross_entropy(logits / tau, labels)
        assert float(loss(logits, labels)) == float(expected)
        assert float(loss(logits, F.one_hot(labels, 5).double())) == pytest.approx(float(expected), rel=1e-12)


def test_kl_of_a_perfect_student_is_zero_without_slope():
    logits, _ = random_batch()
    logits.requires_grad_()
    loss = make_loss(TrainConfig(loss="kl"))(logits, logits.detach().softmax(1))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-14 and float(logits.grad.abs().max()) < 1e-15


def test_the_usual_size_of_a_loss_grows_with_the_temperature():
    assert usual_loss(TrainConfig(), 10) == math.log(10)
    config = TrainConfig.model_validate({"loss": "kl", "kl": {"temperature": 4.0}})
    assert usual_loss(config, 10) == 16 * math.log(10)
