"""How well a score tells images of a classifier's own distribution from others: AUROC, and FPR at 95 % TPR.

The own images are the positives; what is out of distribution should have the lower score. Tie rule: a pair of equal
scores counts a half, and a threshold takes all images of its score or none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddcal.calibration.checks import Floats

TRUE_POSITIVE_PERCENT = 95


@dataclass(frozen=True)
class Separation:
    """Both in [0, 1].

    Attributes:
        auroc: The share of pairs of an own and another image in which the own one has the higher score; 0.5 where the
            score says nothing.
        fpr95: The share of the other images that pass the highest threshold that 95 % of the own images pass.
    """

    auroc: float
    fpr95: float


def separation(own: Floats, other: Floats) -> Separation:
    """Return how well a score separates own images from others.

    Source: Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks" (ICLR 2017), section 2.

    Args:
        own: float64 (N,), the scores of images of the own distribution.
        other: float64 (M,), those of others.

    Raises:
        ValueError: if there are none of either, or one is NaN.
    """
    for name, scores in (("own", own), ("other", other)):
        if scores.ndim != 1 or len(scores) == 0:
            raise ValueError(f"{name} has shape {scores.shape}; it must be (N,) with at least one score")
        if np.isnan(scores).any():
            raise ValueError(f"{name}[{np.flatnonzero(np.isnan(scores))[0]}] is NaN; every score must be a number")
    ascending = np.sort(other)
    below, up_to = np.searchsorted(ascending, own, "left"), np.searchsorted(ascending, own, "right")
    halves = int(below.sum()) + int(up_to.sum())
    needed = -(-TRUE_POSITIVE_PERCENT * len(own) // 100)
    threshold = np.sort(own)[len(own) - needed]
    passed = len(other) - int(np.searchsorted(ascending, threshold, "left"))
    return Separation(halves / (2 * len(own) * len(other)), passed / len(other))
