"""Calibration errors over equal-width bins: of the top-1 confidence (ECE, MCE) and of every class's probability.

Bin and tie rules are those of `ddcal.calibration.metrics.predictions`. All functions raise ValueError as
`ddcal.calibration.score` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ddcal.calibration.checks import ArrayLike, Floats, Integers, check_count
from ddcal.calibration.metrics.predictions import (
    ClassErrors,
    Predictions,
    bin_index,
    predict,
    predict_from_probabilities,
)


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Top-1 confidence against accuracy in equal-width bins; each array has one entry a bin.

    Attributes:
        counts: int64, images in the bin.
        confidence: float64, mean top-1 confidence in the bin; NaN where the bin is empty.
        accuracy: float64, share of right predictions in the bin; NaN where the bin is empty.
    """

    counts: Integers
    confidence: Floats
    accuracy: Floats

    @property
    def ece(self) -> float:
        """The expected calibration error of these bins, a fraction in [0, 1]."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float(np.average(gaps, weights=self.counts[filled]))


class BrierParts(NamedTuple):
    """The two parts of the Brier score, which they add up to."""

    calibration: float
    refinement: float


def expected_calibration_error(
    logits: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    bins: int = 15,
    *,
    probs: ArrayLike | None = None,
) -> float:
    """Return the top-1 expected calibration error, a fraction in [0, 1] (Guo et al. 2017, section 3).

    The mean over images of |accuracy - mean confidence| of the image's bin.

    Args:
        logits: (N, K) floats; give either these or ``probs``.
        labels: (N,) integers in 0..K-1.
        bins: Number of equal-width bins, at least 1.
        probs: (N, K) probabilities whose rows sum to 1.

    Raises:
        ValueError: Both or neither of ``logits`` and ``probs``; NaN or infinite values, no image, a label out of
            range, lengths that differ, rows of ``probs`` that are no distribution, ``bins`` below 1.
    """
    if (logits is None) == (probs is None):
        given = "neither" if logits is None else "both"
        raise ValueError(f"give exactly one of logits and probs; got {given}")
    if labels is None:
        raise ValueError("labels is None; it must hold one integer class an image")
    bins = check_count("bins", bins)
    if probs is not None:
        return top1_ece(predict_from_probabilities(probs, labels), bins)
    assert logits is not None
    return top1_ece(predict(logits, labels), bins)


def maximum_calibration_error(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the largest |accuracy - mean confidence| of all bins that hold an image, in [0, 1].

    One image alone in its bin can decide it. Source: Guo et al. 2017, section 3; Naeini et al. 2015.
    """
    return top1_mce(predict(logits, labels), check_count("bins", bins))


def classwise_ece(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the mean over classes k of the ECE of "the label is k" against p_k of all images, in [0, 1].

    Source: Kull et al. 2019, section 2 (static calibration error of Nixon et al. 2019).
    """
    return mean_class_ece(predict(logits, labels, class_bins=check_count("bins", bins)).errors)


def brier_decomposition(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> BrierParts:
    """Return the parts of the Brier score that miscalibration makes, and the rest.

    Each class k on its own: its probabilities p of all images are binned, with y = 1 where the label is k and else 0.
    ``calibration`` is the mean over images of (mean p - mean y)² of the image's bin (Murphy 1973: reliability), summed
    over classes. ``refinement`` is the mean over images of the squared distance of p - y from its mean in the bin,
    summed over classes: Murphy's uncertainty less resolution where all p of a bin are equal, with the variance and
    covariance within bins (Stephenson et al. 2008) where they are not. Both are at least 0, and their sum is the Brier
    score whatever the number of bins.
    """
    return brier_parts(predict(logits, labels, class_bins=check_count("bins", bins)).errors)


def ece_noise_floor(logits: ArrayLike, bins: int, generator: torch.Generator, resamples: int = 100) -> float:
    """Return the mean ECE that these predictions would show if they were perfectly calibrated.

    Labels are resampled from the predicted probabilities; for the top-1 ECE only the correctness matters, which is
    then Bernoulli(confidence) (method.md, ECE; Vaicenavicius et al. 2019, consistency resampling).

    Args:
        logits: (N, K) floats; divide by the temperature first to get the floor of calibrated predictions.
        bins: Number of equal-width bins, at least 1.
        generator: Draws N float64 uniforms a resample, on its own device.
        resamples: How many label sets to draw, at least 1.

    Raises:
        ValueError: NaN or infinite logits, no image, ``bins`` or ``resamples`` below 1.
    """
    bins, resamples = check_count("bins", bins), check_count("resamples", resamples)
    confidence = predict(logits, None).confidence
    index = bin_index(confidence, bins)
    total = 0.0
    for _ in range(resamples):  # one vector of N at a time: memory stays that of the logits
        uniform = torch.rand(len(confidence), generator=generator, device=generator.device, dtype=torch.float64)
        total += np.abs(np.bincount(index, confidence - (uniform.cpu().numpy() < confidence))).sum()
    return float(total / (resamples * len(confidence)))


def reliability_bins(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> ReliabilityBins:
    """Return counts, mean confidence and accuracy of each equal-width bin."""
    bins = check_count("bins", bins)
    predictions = predict(logits, labels)
    index = bin_index(predictions.confidence, bins)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins is NaN on purpose
        confidence = np.bincount(index, predictions.confidence, minlength=bins) / counts
        right = np.bincount(index, predictions.correct, minlength=bins) / counts
    return ReliabilityBins(counts=counts, confidence=confidence, accuracy=right)


def signed_errors(probs: ArrayLike, labels: ArrayLike, bins: int = 15) -> tuple[float, float]:
    """Return over- and under-confidence: the parts of the ECE of bins that are too confident, and of the others.

    Args:
        probs: (N, K) probabilities whose rows sum to 1.
        labels: (N,) integers in 0..K-1.
        bins: Number of equal-width bins, at least 1.

    Returns:
        Two fractions of at least 0 that sum to the ECE.

    Raises:
        ValueError: as `expected_calibration_error` of ``probs``.
    """
    predictions = predict_from_probabilities(probs, labels)
    index = bin_index(predictions.confidence, check_count("bins", bins))
    gaps = np.bincount(index, predictions.gaps) / len(index)
    return float(gaps[gaps > 0.0].sum()), float(-gaps[gaps < 0.0].sum())


def top1_ece(predictions: Predictions, bins: int) -> float:
    """Return the ECE of predictions that are there already."""
    # In a bin, images * |mean confidence - accuracy| is |sum of (confidence - correct)|.
    index = bin_index(predictions.confidence, bins)
    return float(np.abs(np.bincount(index, predictions.gaps)).sum() / len(index))


def top1_mce(predictions: Predictions, bins: int) -> float:
    """Return the maximum calibration error of predictions that are there already."""
    index = bin_index(predictions.confidence, bins)
    counts = np.bincount(index)
    return float((np.abs(np.bincount(index, predictions.gaps)) / counts.clip(1)).max())


def mean_class_ece(errors: ClassErrors) -> float:
    """Return the class-wise ECE of errors that are there already."""
    return float(np.abs(errors.gaps).sum() / (len(errors.squared) * len(errors.gaps)))


def brier_parts(errors: ClassErrors) -> BrierParts:
    """Return the parts of the Brier score of errors that are there already."""
    calibration = float((errors.gaps**2 / errors.counts.clip(1)).sum() / len(errors.squared))
    # Rounding alone could take the difference below 0, where every probability is the mean of its bin's labels.
    return BrierParts(calibration, max(0.0, float(errors.squared.mean()) - calibration))
