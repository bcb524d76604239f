"""Smooth ECE against direct sums over the images, and the facts that define it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from ddcal.calibration import score_probabilities, smooth_ece
from ddcal.calibration.metrics.predictions import Predictions
from ddcal.calibration.metrics.smooth import CELLS, on_cells, smooth_error


def direct(confidence: np.ndarray, gaps: np.ndarray) -> float:
    """The fixed point by bisection, with each image's kernel reflected at both ends and a plain sum as integral."""
    places = (np.arange(20_000) + 0.5) / 20_000

    def smoothed(bandwidth: float) -> float:
        density = np.zeros_like(places)
        for place, gap in zip(confidence, gaps, strict=True):
            images = [2 * k + sign * place for k in range(-3, 4) for sign in (1, -1)]
            density += gap * sum(norm.pdf(places, image, bandwidth) for image in images if -2 < image < 3)
        return float(np.abs(density).mean()) / len(gaps)

    low, high = 0.0, 1.0
    for _ in range(22):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed(middle) > middle else (low, middle)
    return (low + high) / 2


def predictions(confidence: np.ndarray, correct: np.ndarray) -> Predictions:
    return Predictions(confidence, correct, np.zeros(len(confidence)))


@pytest.mark.parametrize(("images", "seed"), [(2, 0), (5, 1), (20, 2)])
def test_against_direct_sums(images: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.3, 1.0, images)
    confidence[0] = 1.0
    correct = generator.uniform(size=images) < confidence
    expected = direct(confidence, confidence - correct)
    assert smooth_error(predictions(confidence, correct)) == pytest.approx(expected, abs=2e-6)


def test_gaps_of_one_sign_add_up_to_the_mean_gap() -> None:
    # Nothing cancels under any kernel, so the bandwidth does not matter: the integral is the mean gap.
    confidence = np.random.default_rng(0).uniform(0.5, 1.0, 100)
    wrong = np.zeros(100, bool)
    assert smooth_error(predictions(confidence, wrong)) == pytest.approx(confidence.mean(), abs=1e-12)
    assert smooth_error(predictions(confidence, ~wrong)) == pytest.approx(1.0 - confidence.mean(), abs=1e-12)


def test_it_lies_between_the_mean_gap_and_the_mean_of_all_gaps_and_has_no_jump() -> None:
    generator = np.random.default_rng(3)
    confidence = generator.uniform(0.2, 1.0, 2000)
    correct = generator.uniform(size=2000) < confidence**1.5
    gaps = confidence - correct
    value = smooth_error(predictions(confidence, correct))
    assert abs(gaps.mean()) <= value <= np.abs(gaps).mean()
    # Every confidence moved by 1e-6 moves it by no more than about that, whatever edges are crossed.
    assert smooth_error(predictions(confidence - 1e-6, correct)) == pytest.approx(value, abs=3e-6)


def test_perfectly_calibrated_and_certain() -> None:
    assert score_probabilities(np.eye(3), np.arange(3))["smooth_ece"] == 0.0
    assert score_probabilities(np.eye(3), np.array([1, 2, 0]))["smooth_ece"] == pytest.approx(1.0, abs=1e-12)
    # Equal confidences are one place: the mean of the gaps is left, whatever the order.
    assert smooth_ece(np.zeros((8, 4)), np.repeat(np.arange(4), 2)) == pytest.approx(0.0, abs=1e-12)


def test_masses_are_split_between_neighbours_and_kept_at_the_ends() -> None:
    middle = (np.arange(CELLS) + 0.5) / CELLS
    cells = on_cells(np.array([0.0, 1.0, middle[7], middle[9] + 0.25 / CELLS]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert {int(i): cells[i] for i in np.flatnonzero(np.abs(cells) > 1e-9)} == pytest.approx(
        {0: 1.0, 7: 3.0, 9: 3.0, 10: 1.0, CELLS - 1: 2.0}
    )
