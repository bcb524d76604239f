"""AURC and equal-mass bins: by hand, over all orders of ties, and against an independent area."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import auc

from ddcal.calibration import accuracy, adaptive_ece, aurc, score_probabilities


def two_class(confidences: list[float], correct: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with these top-1 confidences in class 0, and the labels that make them right or wrong."""
    return np.array([[c, 1.0 - c] for c in confidences]), np.array([0 if right else 1 for right in correct])


@pytest.mark.parametrize(
    ("confidences", "correct", "expected"),
    [
        ([0.9, 0.8, 0.7], [True, False, True], (0 + 1 / 2 + 1 / 3) / 3),
        ([0.7, 0.8, 0.9], [False, True, True], (0 + 0 + 1 / 3) / 3),  # the best order: errors last
        ([0.9, 0.8, 0.7], [False, True, True], (1 + 1 / 2 + 1 / 3) / 3),  # the worst
        ([0.9], [True], 0.0),
        ([0.9], [False], 1.0),
        ([1.0, 1.0, 1.0, 1.0], [True, False, False, True], 0.5),  # no order at all: 1 - accuracy
    ],
)
def test_aurc_by_hand(confidences: list[float], correct: list[bool], expected: float) -> None:
    assert score_probabilities(*two_class(confidences, correct))["aurc"] == pytest.approx(expected, abs=1e-12)


def test_aurc_of_ties_is_the_mean_over_their_orders() -> None:
    confidences = np.array([0.9, 0.8, 0.8, 0.8, 0.8, 0.6, 0.6])
    wrong = np.array([0, 1, 0, 0, 1, 1, 0])
    areas = []
    for middle in permutations(range(1, 5)):
        for last in permutations(range(5, 7)):
            errors = wrong[[0, *middle, *last]]
            areas.append(np.mean(np.cumsum(errors) / np.arange(1, 8)))
    assert np.ptp(areas) > 0.1
    metrics = score_probabilities(*two_class(confidences.tolist(), (wrong == 0).tolist()))
    assert metrics["aurc"] == pytest.approx(np.mean(areas), abs=1e-12)


def test_aurc_beside_the_trapezoids_of_an_independent_library() -> None:
    generator = np.random.default_rng(0)
    logits, labels = 2.0 * generator.normal(size=(500, 5)), generator.integers(5, size=500)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = (probabilities.argmax(axis=1) != labels)[np.argsort(-probabilities.max(axis=1))]
    coverage = np.arange(1, 501) / 500
    risk = np.cumsum(wrong) / (500 * coverage)
    # Trapezoids leave out half of the first and half of the last column.
    assert aurc(logits, labels) == pytest.approx(auc(coverage, risk) + (risk[0] + risk[-1]) / 1000, abs=1e-12)
    assert 0.0 <= aurc(logits, labels) <= 1.0
    assert risk[-1] == pytest.approx(1.0 - accuracy(logits, labels))


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_equal_mass_bins_are_those_of_numpys_split(bins: int) -> None:
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(233, 6)), generator.integers(6, size=233)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    runs = np.array_split(np.argsort(confidence), bins)
    expected = sum(len(run) * abs(confidence[run].mean() - correct[run].mean()) for run in runs) / 233
    assert adaptive_ece(logits, labels, bins) == pytest.approx(expected, abs=1e-12)
