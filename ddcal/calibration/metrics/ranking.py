"""Metrics of the order of the confidences: equal-mass bins (adaptive ECE) and the risk-coverage curve (AURC).

Tie rule: images of equal confidence all count with the mean of their correctness, so the order in which images are
given never matters; for the risk-coverage curve this is the mean over all orders of the tied images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddcal.calibration.checks import ArrayLike, Floats, check_count
from ddcal.calibration.metrics.predictions import Predictions, predict


@dataclass(frozen=True, eq=False)
class Ranked:
    """Predictions in the order of their confidence, lowest first; both float64 (N,).

    Attributes:
        confidence: Ascending.
        correct: Correctness, averaged over images of equal confidence.
    """

    confidence: Floats
    correct: Floats


def adaptive_ece(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the top-1 ECE with bins of equal mass instead of equal width, in [0, 1].

    Images sorted by confidence are cut into ``bins`` runs; the first N mod bins runs hold one image more, and with
    fewer images than bins every image is its own bin. A cut may fall between ties; see the rule of the module.

    Source: Nguyen & O'Connor 2015, section 4 (adaptive binning). Raises as `ddcal.calibration.score` does.
    """
    bins = check_count("bins", bins)
    return equal_mass_ece(rank(predict(logits, labels)), bins)


def aurc(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the risk-coverage curve of the top-1 confidence, in [0, 1].

    The mean over n = 1..N of the share of wrong predictions among the n most confident images: 0 where all are right,
    and 1 - accuracy where confidence says nothing.

    Source: Geifman & El-Yaniv 2017; Geifman et al. 2019, section 2. Raises as `ddcal.calibration.score` does.
    """
    return risk_coverage_area(rank(predict(logits, labels)))


def rank(predictions: Predictions) -> Ranked:
    """Return the predictions sorted, with ties averaged."""
    order = np.argsort(predictions.confidence)
    return average_ties(predictions.confidence[order], predictions.correct[order].astype(np.float64))


def average_ties(confidence: Floats, correct: Floats) -> Ranked:
    """Return ``correct`` averaged over runs of equal ``confidence``, which is ascending."""
    starts = np.flatnonzero(np.r_[True, confidence[1:] != confidence[:-1]])
    if len(starts) == len(confidence):
        return Ranked(confidence, correct)
    lengths = np.diff(np.r_[starts, len(confidence)])
    means = np.add.reduceat(correct, starts) / lengths
    return Ranked(confidence, np.repeat(means, lengths))


def equal_mass_ece(ranked: Ranked, bins: int) -> float:
    """Return the adaptive ECE of predictions that are ranked already."""
    images = len(ranked.confidence)
    runs = min(bins, images)
    quotient, remainder = divmod(images, runs)
    starts = np.arange(runs) * quotient + np.minimum(np.arange(runs), remainder)
    return float(np.abs(np.add.reduceat(ranked.confidence - ranked.correct, starts)).sum() / images)


def risk_coverage_area(ranked: Ranked) -> float:
    """Return the AURC of predictions that are ranked already."""
    wrong = np.cumsum(1.0 - ranked.correct[::-1])
    return float((wrong / np.arange(1, len(wrong) + 1)).mean())
