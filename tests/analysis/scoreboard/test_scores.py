"""DD-Ranking's scores: facts that follow from their definition, and the numbers that its own package gives."""

import math

import pytest

from ddcal.analysis.scoreboard.scores import (
    EVEN,
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    normalised,
)

PACKAGE = [
    (label_robust_score, (0.87, 0.52, 0.52, 0.31), 0.5, 0.24017775925847465),  # hard labels are those that are scored
    (label_robust_score, (0.87, 0.31, 0.31, 0.31), 0.5, 0.16503740056694297),
    (label_robust_score, (0.6, 0.7, 0.7, 0.2), 0.25, 0.3631392316503326),
    (label_robust_score, (0.87, 0.52, 0.66, 0.58), 0.5, 0.21521271134358172),
    (label_robust_score, (0.62, 0.44, 0.47, 0.49), 0.3, 0.21632957686649673),
    (augmentation_robust_score, (0.66, 0.58, 0.61, 0.6), 0.5, 0.2885243915701887),
    (augmentation_robust_score, (0.3, 0.3, 0.2, 0.2), 0.5, 0.26894142136999516),
    (augmentation_robust_score, (0.44, 0.5, 0.4, 0.35), 0.8, 0.2530773040977904),
]
"""What ddranking 0.2.0 (the authors' package) gives for these accuracies and weights: LabelRobustScoreHard,
LabelRobustScoreSoft and AugmentationRobustScore with ``compute_metrics``, in subclasses whose helpers return them
instead of training networks. It asks for numpy below 2, so it is not installed beside ddcal. (Its own helpers return
percents, for which the scores leave [0, 1]; ours are of shares.)"""


@pytest.mark.parametrize(("score", "accuracies", "weight", "expected"), PACKAGE)
def test_the_authors_package_agrees(score, accuracies, weight, expected):
    assert score(*accuracies, weight=weight) == pytest.approx(expected, rel=1e-14)


def test_the_ends_and_the_middle_of_the_scale():
    assert normalised(-1.0) == 0.0 and normalised(1.0) == pytest.approx(1.0, rel=1e-15)
    assert normalised(0.0) == pytest.approx(EVEN, rel=1e-15) == pytest.approx(1.0 / (math.e + 1.0), rel=1e-12)
    assert label_robust_score(1.0, 0.0, 0.0, 1.0) == 0.0  # nothing of all that there is to lose is kept
    assert label_robust_score(0.0, 1.0, 1.0, 0.0) == pytest.approx(1.0)
    assert augmentation_robust_score(0.0, 1.0, 0.0, 1.0) == 0.0
    assert augmentation_robust_score(1.0, 0.0, 1.0, 0.0) == pytest.approx(1.0)


def test_equal_accuracies_are_the_middle():
    assert label_robust_score(0.6, 0.6, 0.4, 0.4) == pytest.approx(EVEN, rel=1e-15)
    assert augmentation_robust_score(0.4, 0.4, 0.3, 0.3) == pytest.approx(EVEN, rel=1e-15)
    assert augmentation_robust_score(0.5, 0.4, 0.3, 0.4) == pytest.approx(EVEN, rel=1e-12)  # what it wins it loses


def test_each_accuracy_moves_a_score_in_its_direction():
    scores = [(label_robust_score, (-1, 1, 1, -1)), (augmentation_robust_score, (1, -1, 1, -1))]
    for score, directions in scores:
        middle = [0.6, 0.5, 0.55, 0.4]
        for place, direction in enumerate(directions):
            more = middle.copy()
            more[place] += 0.01
            assert (score(*more) - score(*middle)) * direction > 0.0


def test_a_weight_of_one_or_none_leaves_one_term():
    improvement = normalised(improvement_over_random(0.55, 0.4))
    assert label_robust_score(0.9, 0.1, 0.55, 0.4, weight=1.0) == improvement
    assert label_robust_score(0.6, 0.5, 0.9, 0.1, weight=0.0) == normalised(-hard_label_recovery(0.6, 0.5))
    assert augmentation_robust_score(0.55, 0.4, 0.0, 1.0, weight=1.0) == improvement
    assert augmentation_robust_score(0.0, 1.0, 0.55, 0.4, weight=0.0) == improvement
