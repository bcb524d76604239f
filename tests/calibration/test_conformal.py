"""Conformal sets: scores by hand, thresholds by counting, coverage in simulated studies, degenerate probabilities."""

import math

import numpy as np
import pytest
import torch

from ddcal.calibration import expected_calibration_error
from ddcal.calibration.conformal import (
    KINDS,
    RAPS_PLACES,
    RAPS_WEIGHT,
    conformal_scores,
    conformal_sets,
    conformal_threshold,
    prediction_sets,
)
from ddcal.calibration.metrics.binned import signed_errors
from ddcal.seeding import generator


def simulated(images, classes, stream):
    """Probabilities that are wrong by a factor of two in the logits, and labels."""
    logits = 2.0 * torch.randn(images, classes, generator=stream, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits / 2.0, dim=1), 1, generator=stream)[:, 0]
    return torch.softmax(logits, dim=1).numpy(), labels.numpy()


def test_scores_are_those_of_the_definitions():
    probs = np.array([[0.1, 0.6, 0.3]])
    np.testing.assert_allclose(conformal_scores(probs, "thr"), [[0.9, 0.4, 0.7]])
    np.testing.assert_allclose(conformal_scores(probs, "aps", [0.5]), [[0.95, 0.3, 0.75]])
    np.testing.assert_allclose(conformal_scores(probs, "aps", [0.0]), [[0.9, 0.0, 0.6]])


def test_scores_by_brute_force():
    stream = generator(0, "test", "conformal")
    probs, _ = simulated(30, 9, stream)
    probs[:5] = np.round(probs[:5], 1)  # ties
    uniform = torch.rand(30, generator=stream, dtype=torch.float64).numpy()
    for kind in ("aps", "raps"):
        found = conformal_scores(probs, kind, uniform)
        for row in range(30):
            ranked = sorted(range(9), key=lambda k: (-probs[row, k], k))
            for place, k in enumerate(ranked, 1):
                wanted = sum(probs[row, j] for j in ranked[: place - 1]) + uniform[row] * probs[row, k]
                wanted += RAPS_WEIGHT * max(0, place - RAPS_PLACES) if kind == "raps" else 0.0
                assert found[row, k] == pytest.approx(wanted, abs=1e-12)


def test_the_threshold_is_the_right_one_of_the_sorted_scores():
    scores = np.linspace(0.1, 0.9, 9)[:, None]  # of one class: the labels' own scores
    labels = np.zeros(9, np.int64)
    assert conformal_threshold(scores, labels, 0.9) == pytest.approx(0.9)  # ⌈10 · 0.9⌉ = 9
    assert conformal_threshold(scores, labels, 0.8) == pytest.approx(0.8)
    assert conformal_threshold(scores, labels, 0.81) == pytest.approx(0.9)
    assert conformal_threshold(scores, labels, 0.91) == math.inf  # nine images are too few
    assert prediction_sets(np.full((2, 3), 0.5), [0, 1], math.inf) == (1.0, 3.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_sets_hold_the_right_class_as_often_as_was_asked_for(kind, coverage):
    """A thousand simulated studies of 60 images; the mean coverage lies in [c, c + 1/(n + 1)] but for chance."""
    stream, images, studies = generator(1, "test", "conformal", kind), 60, 1000
    found = np.array(
        [
            conformal_sets(simulated(images, 5, stream), simulated(40, 5, stream), kind, coverage, stream)
            for _ in range(studies)
        ]
    )
    error = 4.0 * found[:, 0].std() / math.sqrt(studies)
    assert coverage - error <= found[:, 0].mean() <= coverage + 1.0 / (images + 1) + error
    assert error < 0.015


def test_degenerate_probabilities():
    certain, labels = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])
    assert conformal_sets((certain, labels), (certain, labels), "thr", 0.5, generator(0, "test", "c")) == (1.0, 1.0)
    even = np.full((4, 3), 1 / 3)
    assert conformal_sets((even, labels), (even, labels), "thr", 0.5, generator(0, "test", "c")) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: conformal_scores(np.eye(2), "lac"), "kind is 'lac'; it must be one of thr, aps, raps"),
        (lambda: conformal_scores(np.eye(2), "aps"), "uniform is None; aps needs a uniform number an image"),
        (lambda: conformal_threshold(np.eye(2), [0, 1], 1.0), "coverage is 1.0; it must be above 0 and below 1"),
        (lambda: conformal_threshold(np.eye(2), [0, 2], 0.5), r"labels\[1\] is 2; it must be in 0..1"),
    ],
)
def test_what_cannot_be_asked_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_over_and_under_confidence_are_the_parts_of_the_ece():
    probs = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.45, 0.55]])
    labels = [0, 1, 0, 1]  # 0.95 is right in a half: too confident by 0.45; 0.55 always: by 0.45 too little
    assert signed_errors(probs, labels) == pytest.approx((0.225, 0.225))
    many, right = simulated(500, 4, generator(2, "test", "conformal"))
    over, under = signed_errors(many, right)
    assert over > under and over + under == pytest.approx(
        expected_calibration_error(probs=many, labels=right), abs=1e-12
    )
