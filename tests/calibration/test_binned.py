"""MCE and the parts of the Brier score: by hand, by their definitions, and where inputs degenerate."""

from __future__ import annotations

import numpy as np
import pytest

from ddcal.calibration import brier_decomposition, brier_score, maximum_calibration_error, score_probabilities


def sample(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return 2.0 * generator.normal(size=(images, classes)), generator.integers(classes, size=images)


def test_mce_by_hand() -> None:
    # Bins of width 1/2: {0.6 wrong, 0.8 right, 0.7 right} has |0.7 - 2/3|; a bin of its own has |0.5 - 0| at 0.5.
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2], [0.7, 0.3]])
    metrics = score_probabilities(probabilities, np.array([1, 0, 0]), bins=2)
    assert metrics["mce"] == pytest.approx(0.7 - 2 / 3)
    # Ten bins: 0.6, 0.7 and 0.8 are edges, each alone in its bin; the wrong one has the largest gap.
    assert score_probabilities(probabilities, np.array([1, 0, 0]), bins=10)["mce"] == pytest.approx(0.6)


def test_mce_is_the_largest_gap_of_any_filled_bin() -> None:
    logits, labels = sample(300, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    gaps = []
    for number in range(15):
        inside = (confidence * 15).astype(int).clip(max=14) == number
        if inside.any():
            gaps.append(abs(confidence[inside].mean() - correct[inside].mean()))
    assert maximum_calibration_error(logits, labels) == pytest.approx(max(gaps), abs=1e-12)


def test_parts_of_the_brier_score_by_their_definition() -> None:
    logits, labels = sample(300, 4)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    calibration, refinement = 0.0, 0.0
    for one in range(4):
        p, y = probabilities[:, one], labels == one
        index = (p * 15).astype(int).clip(max=14)
        for number in np.unique(index):
            inside = index == number
            calibration += inside.mean() * (p[inside].mean() - y[inside].mean()) ** 2
            refinement += inside.mean() * np.var(p[inside] - y[inside])
    parts = brier_decomposition(logits, labels)
    assert parts.calibration == pytest.approx(calibration, abs=1e-12)
    assert parts.refinement == pytest.approx(refinement, abs=1e-12)
    assert sum(parts) == pytest.approx(brier_score(logits, labels), abs=1e-15)


def test_parts_are_murphys_where_probabilities_repeat() -> None:
    # Two forecasts alone, each in a bin of its own: the refinement is uncertainty less resolution.
    generator = np.random.default_rng(0)
    rain = np.where(generator.uniform(size=200) < 0.5, 0.3, 0.8)
    labels = (generator.uniform(size=200) < rain).astype(int)
    metrics = score_probabilities(np.column_stack([1.0 - rain, rain]), labels)
    base = labels.mean()
    rates = np.where(rain == 0.3, labels[rain == 0.3].mean(), labels[rain == 0.8].mean())
    reliability, resolution, uncertainty = np.mean((rain - rates) ** 2), np.mean((rates - base) ** 2), base * (1 - base)
    # Both of two classes have the same parts.
    assert metrics["brier_calibration"] == pytest.approx(2 * reliability, abs=1e-12)
    assert metrics["brier_refinement"] == pytest.approx(2 * (uncertainty - resolution), abs=1e-12)


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        # Certain and right; certain and wrong: no spread within a bin, all of it is calibration.
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], {"brier_calibration": 0.0, "brier_refinement": 0.0, "mce": 0.0}),
        ([[1.0, 0.0], [0.0, 1.0]], [1, 0], {"brier_calibration": 2.0, "brier_refinement": 0.0, "mce": 1.0}),
        # A collapsed network is calibrated and refines nothing.
        ([[0.5, 0.5]] * 4, [0, 1, 0, 1], {"brier_calibration": 0.0, "brier_refinement": 0.5, "mce": 0.0}),
        # One class: certain by construction.
        ([[1.0]] * 3, [0, 0, 0], {"brier": 0.0, "mce": 0.0, "smooth_ece": 0.0, "aurc": 0.0, "nll": 0.0}),
        # One image.
        ([[0.75, 0.25]], [1], {"brier_calibration": 1.125, "brier_refinement": 0.0, "mce": 0.75, "smooth_ece": 0.75}),
    ],
)
def test_degenerate(probabilities: list[list[float]], labels: list[int], expected: dict[str, float]) -> None:
    metrics = score_probabilities(np.array(probabilities), np.array(labels))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
