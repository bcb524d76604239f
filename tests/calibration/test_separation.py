"""AUROC and FPR at 95 % TPR against scikit-learn and pairs counted one by one, with ties and without."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from ddcal.calibration.metrics.separation import separation

RANDOM = np.random.default_rng(0)


def scikit(own, other):
    truth, scores = np.r_[np.ones(len(own)), np.zeros(len(other))], np.r_[own, other]
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    return roc_auc_score(truth, scores), false[true >= 0.95].min()


CASES = {
    "apart": (RANDOM.normal(2, 1, 300), RANDOM.normal(0, 1, 200)),
    "alike": (RANDOM.normal(0, 1, 500), RANDOM.normal(0, 1, 500)),
    "the wrong way round": (RANDOM.normal(0, 1, 40), RANDOM.normal(3, 1, 60)),
    "ties": (RANDOM.integers(3, 9, 100) / 10, RANDOM.integers(0, 7, 80) / 10),
    "all ones": (np.ones(30), np.ones(70)),
    "saturated": (np.r_[np.ones(90), RANDOM.uniform(0.3, 1, 10)], np.r_[np.ones(20), RANDOM.uniform(0.3, 1, 80)]),
    "one each": (np.array([0.4]), np.array([0.6])),
    "whole thresholds": (np.arange(20.0), np.arange(20.0) - 3),
}


@pytest.mark.parametrize("case", CASES)
def test_as_scikit_learn_has_it(case):
    own, other = CASES[case]
    auroc, fpr95 = scikit(own, other)
    found = separation(own, other)
    assert found.auroc == pytest.approx(auroc, abs=1e-12) and found.fpr95 == pytest.approx(fpr95, abs=1e-12)
    pairs = [float(a > b) + 0.5 * float(a == b) for a in own for b in other]
    assert found.auroc == pytest.approx(np.mean(pairs), abs=1e-12)


def test_as_scikit_learn_has_it_for_every_count():
    for count in range(1, 130, 4):
        own, other = RANDOM.integers(0, 30, count) / 30, RANDOM.integers(0, 25, 17) / 30
        assert separation(own, other).fpr95 == pytest.approx(scikit(own, other)[1], abs=1e-12), count


def test_facts():
    own, other = CASES["apart"]
    assert separation(own, own).auroc == 0.5
    assert separation(own, own - 100).auroc == 1.0 and separation(own, own - 100).fpr95 == 0.0
    assert separation(own - 100, own).auroc == 0.0 and separation(own - 100, own).fpr95 == 1.0
    assert separation(own, other).auroc + separation(other, own).auroc == pytest.approx(1.0, abs=1e-12)
    assert separation(np.exp(own), np.exp(other)) == separation(own, other)


def test_what_has_no_answer_is_refused():
    with pytest.raises(ValueError, match=r"own has shape \(0,\); it must be \(N,\) with at least one score"):
        separation(np.empty(0), np.ones(3))
    with pytest.raises(ValueError, match=r"other has shape \(2, 2\)"):
        separation(np.ones(3), np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"other\[1\] is NaN"):
        separation(np.ones(3), np.array([0.0, np.nan]))
