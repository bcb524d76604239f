"""How well a classifier is calibrated: every metric of a trial, computed in float64 from logits and labels.

Inputs are the same everywhere: ``logits`` (N, K) of any float dtype and integer ``labels`` (N,) in 0..K-1, as torch
tensors on any device or as numpy arrays. Invalid input raises ValueError with the offending value. The bin and tie
rules are those of `ddcal.calibration.metrics.predictions` and `ddcal.calibration.metrics.ranking`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from ddcal.calibration.checks import ArrayLike, check_count, check_matrix, check_targets, check_temperature, classes_of
from ddcal.calibration.metrics.binned import brier_parts, mean_class_ece, top1_ece, top1_mce
from ddcal.calibration.metrics.predictions import Predictions, predict, predict_from_probabilities
from ddcal.calibration.metrics.ranking import equal_mass_ece, rank, risk_coverage_area
from ddcal.config.metrics import METRICS


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of images whose first largest logit is at the label. Raises as `score` does.

    Labels may be probabilities (N, K): the label is then the first of the most probable classes.
    """
    scores = check_matrix(logits)
    return float((scores.argmax(axis=1) == classes_of(check_targets(labels, scores.shape))).mean())


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean of -log softmax(logits / temperature) at the label, in nats. Raises as `score` does.

    Labels may be probabilities q (N, K): it is then the cross-entropy, the mean of -sum_k q_k log p_k.
    """
    if np.ndim(labels) == 2:
        scores = check_matrix(logits)
        labels = check_targets(labels, scores.shape)
        if labels.ndim == 2:
            scaled = scores.astype(np.float64, copy=False) / check_temperature(temperature)
            scaled -= scaled.max(axis=1, keepdims=True)
            return float((np.log(np.exp(scaled).sum(axis=1)) - (labels * scaled).sum(axis=1)).mean())
    return float(predict(logits, labels, temperature).nll.mean())


def brier_score(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the squared error of the probabilities, summed over classes, mean over images: in [0, 2].

    Source: Brier 1950 (the original, multi-class form). Raises as `score` does.
    """
    return float(predict(logits, labels, class_bins=1).errors.squared.mean())


def score(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0, bins: int = 15) -> dict[str, float]:
    """Return every metric of `ddcal.config.metrics.METRICS` for softmax(logits / temperature).

    One softmax serves all. Names that end in ``_10`` or ``_15`` use that number of bins, ``smooth_ece`` and ``aurc``
    none, and all others ``bins``. Fractions, except ``nll`` (nats) and ``brier`` with its parts (0..2).

    Args:
        logits: (N, K) floats.
        labels: (N,) integers in 0..K-1.
        temperature: Finite and not zero. Negative values are allowed because the paper's LBFGS solver can produce
            them: they reverse the order of the classes, and the accuracy with it. A positive one leaves it as it is.
        bins: Number of bins, at least 1.

    Raises:
        ValueError: NaN or infinite logits, no image, a label out of range or of a type that is not an integer, lengths
            that differ, a temperature that is zero or not finite, ``bins`` below 1.
    """
    bins = check_count("bins", bins)
    return measure(predict(logits, labels, temperature, bins), bins)


def score_probabilities(probs: ArrayLike, labels: ArrayLike, bins: int = 15) -> dict[str, float]:
    """Return what `score` returns, from probabilities: for calibrators that are more than a temperature.

    A probability below 1e-12 at the label (histogram binning and isotonic regression give exact zeros) counts as 1e-12
    in ``nll``, which is then finite and at most 27.6 nats an image; the other metrics take it as it is.

    Args:
        probs: (N, K) probabilities whose rows sum to 1; the prediction is the first of equal largest ones.
        labels: (N,) integers in 0..K-1.
        bins: Number of bins, at least 1.

    Raises:
        ValueError: As `expected_calibration_error` of ``probs``.
    """
    bins = check_count("bins", bins)
    return measure(predict_from_probabilities(probs, labels, bins), bins)


def measure(predictions: Predictions, bins: int) -> dict[str, float]:
    """Return every metric of `ddcal.config.metrics.METRICS`; the predictions' class errors have the same ``bins``."""
    errors, ranked = predictions.errors, rank(predictions)
    brier = float(np.mean(errors.squared))
    parts = brier_parts(errors)
    together = {
        "accuracy": float(predictions.correct.mean()),
        "ece": top1_ece(predictions, bins),
        "ece_10": top1_ece(predictions, 10),
        "ece_15": top1_ece(predictions, 15),
        "nll": float(predictions.nll.mean()),
        "brier": brier,
        "classwise_ece": mean_class_ece(errors),
        "adaptive_ece": equal_mass_ece(ranked, bins),
        "adaptive_ece_10": equal_mass_ece(ranked, 10),
        "adaptive_ece_15": equal_mass_ece(ranked, 15),
        "mce": top1_mce(predictions, bins),
        "brier_calibration": parts.calibration,
        "brier_refinement": parts.refinement,
        "aurc": risk_coverage_area(ranked),
    }
    return {name: together[name] if name in together else function_of(name)(predictions, bins) for name in METRICS}


def function_of(metric: str) -> Callable[[Predictions, int], float]:
    """Return the function that a metric's row names."""
    module, _, name = METRICS[metric].function.partition(":")
    function: Callable[[Predictions, int], float] = getattr(importlib.import_module(module), name)
    return function
