"""The one pass over the classes: blocks of images, the bin of a value, and what is kept of each image."""

from __future__ import annotations

import numpy as np
import pytest

from ddcal.calibration import score, score_probabilities
from ddcal.calibration.metrics import predictions
from ddcal.calibration.metrics.predictions import bin_index, predict


@pytest.mark.parametrize("bins", [1, 2, 3, 7, 10, 15, 97, 1000])
def test_every_edge_and_its_neighbours_are_in_their_bin(bins: int) -> None:
    edges = np.arange(bins + 1) / bins
    below = np.nextafter(edges[1:], 0.0)
    assert bin_index(edges[:-1], bins).tolist() == list(range(bins))
    assert bin_index(below, bins).tolist() == list(range(bins))
    assert bin_index(np.nextafter(edges[:-1], 1.0), bins).tolist() == list(range(bins))
    assert bin_index(np.array([1.0, 0.0]), bins).tolist() == [bins - 1, 0]


def test_the_bin_is_that_of_a_search_among_the_edges() -> None:
    values = np.random.default_rng(0).uniform(size=100_000).astype(np.float32).astype(np.float64)
    for bins in (10, 15, 64):
        expected = np.searchsorted(np.arange(1, bins) / bins, values, side="right")
        assert np.array_equal(bin_index(values, bins), expected)


def test_blocks_give_the_numbers_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    logits, labels = 3.0 * generator.normal(size=(101, 5)), generator.integers(5, size=101)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    whole = score(logits, labels, 1.7), score_probabilities(probabilities, labels), predict(logits, labels)
    monkeypatch.setattr(predictions, "BLOCK", 35)  # seven images each, and three at the end
    assert score(logits, labels, 1.7) == pytest.approx(whole[0], rel=1e-13)
    assert score_probabilities(probabilities, labels) == pytest.approx(whole[1], rel=1e-13)
    assert np.array_equal(predict(logits, labels).nll, whole[2].nll)
    monkeypatch.setattr(predictions, "BLOCK", 1)  # fewer than the classes: one image at a time
    assert score(logits, labels, 1.7) == pytest.approx(whole[0], rel=1e-13)
    probabilities[80] *= 0.9
    with pytest.raises(ValueError, match=r"probs\[80\] sums to 0.9"):
        score_probabilities(probabilities, labels)


def test_an_image_at_a_time_by_hand() -> None:
    # softmax of (0, log 3) is (1/4, 3/4).
    found = predict(np.array([[0.0, np.log(3.0)], [np.log(3.0), 0.0]]), np.array([1, 1]), class_bins=2)
    assert found.confidence == pytest.approx([0.75, 0.75])
    assert found.correct.tolist() == [True, False]
    assert found.nll == pytest.approx([-np.log(0.75), -np.log(0.25)])
    assert found.gaps == pytest.approx([-0.25, 0.75])
    assert found.errors.squared == pytest.approx([2 * 0.25**2, 2 * 0.75**2])
    assert found.errors.counts.tolist() == [[1, 1], [1, 1]]
    # Class 0: p = 1/4, 3/4, and never the label. Class 1: p = 3/4, 1/4, and always.
    assert found.errors.gaps == pytest.approx(np.array([[0.25, 0.75], [-0.75, -0.25]]))
