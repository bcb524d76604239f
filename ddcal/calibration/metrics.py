"""How well a classifier is calibrated: every metric of a trial, computed in float64 from logits and labels.

Inputs are the same everywhere: ``logits`` (N, K) of any float dtype and integer ``labels`` (N,) in 0..K-1, as torch
tensors on any device or as numpy arrays. Invalid input raises ValueError with the offending value.

Bin rule (PAPER.md, ECE): equal-width bins [k/bins, (k+1)/bins), closed on the left, with confidence 1.0 in the last
bin. An edge is the double nearest to k/bins, compared exactly: a confidence of 1/5 is on the edge 3/15. Tie rule: the
prediction is the first of equal largest logits.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
ArrayLike = torch.Tensor | npt.NDArray[np.generic]

PROBABILITY_SLACK = 1e-6
"""Rounding allowed outside [0, 1] in ``probs``; such values are clipped."""
PROBABILITY_SUM_SLACK = 1e-4
"""Rounding allowed in the sum of a row of ``probs`` (float32 softmax of many classes); rows are not renormalised."""
LEAST_PROBABILITY = 1e-12
"""What `score_probabilities` takes for a smaller probability at the label, in the NLL alone: at most 27.6 nats."""


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


@dataclass(frozen=True, eq=False)
class _Predictions:
    """Softmax of one set of logits and what the metrics share of it; ``residual`` is ``probs`` minus the one-hot."""

    probs: Floats
    labels: Integers
    confidence: Floats
    correct: npt.NDArray[np.bool_]
    nll: float

    @property
    def residual(self) -> Floats:
        residual = self.probs.copy()
        residual[np.arange(len(self.labels)), self.labels] -= 1.0
        return residual


def expected_calibration_error(
    logits: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    bins: int = 15,
    *,
    probs: ArrayLike | None = None,
) -> float:
    """Return the top-1 expected calibration error, a fraction in [0, 1] (Guo et al. 2017, section 3).

    The mean over images of |accuracy - mean confidence| of the image's bin; bin and tie rules are the module's.

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
    if probs is not None:
        predictions = _from_probabilities(probs, labels)
    else:
        assert logits is not None
        predictions = _predict(logits, labels)
    return _ece(predictions, check_count("bins", bins))


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of images whose first largest logit is at the label. Raises as `score` does."""
    scores, classes = check_logits_labels(logits, labels)
    return float((scores.argmax(axis=1) == classes).mean())


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Return the mean of -log softmax(logits / temperature) at the label, in nats. Raises as `score` does."""
    return _predict(logits, labels, temperature).nll


def brier_score(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the squared error of the probabilities, summed over classes, mean over images: in [0, 2].

    Source: Brier 1950 (the original, multi-class form). Raises as `score` does.
    """
    return _brier(_predict(logits, labels).residual)


def classwise_ece(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the mean over classes k of the ECE of "the label is k" against p_k of all images, in [0, 1].

    Source: Kull et al. 2019, section 2 (static calibration error of Nixon et al. 2019). Raises as `score` does.
    """
    predictions = _predict(logits, labels)
    return _classwise(predictions.probs, predictions.residual, check_count("bins", bins))


def adaptive_ece(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the top-1 ECE with bins of equal mass instead of equal width, in [0, 1].

    Images sorted by confidence are cut into ``bins`` runs; the first N mod bins runs hold one image more, and with
    fewer images than bins every image is its own bin. Images of equal confidence all count with their mean
    correctness, so the order of the images does not matter even where a cut falls between ties.

    Source: Nguyen & O'Connor 2015, section 4 (adaptive binning). Raises as `score` does.
    """
    return _adaptive(_predict(logits, labels), check_count("bins", bins))


def ece_noise_floor(logits: ArrayLike, bins: int, generator: torch.Generator, resamples: int = 100) -> float:
    """Return the mean ECE that these predictions would show if they were perfectly calibrated.

    Labels are resampled from the predicted probabilities; for the top-1 ECE only the correctness matters, which is
    then Bernoulli(confidence) (PAPER.md, ECE; Vaicenavicius et al. 2019, consistency resampling).

    Args:
        logits: (N, K) floats; divide by the temperature first to get the floor of calibrated predictions.
        bins: Number of equal-width bins, at least 1.
        generator: Draws N float64 uniforms a resample, on its own device.
        resamples: How many label sets to draw, at least 1.

    Raises:
        ValueError: NaN or infinite logits, no image, ``bins`` or ``resamples`` below 1.
    """
    bins, resamples = check_count("bins", bins), check_count("resamples", resamples)
    confidence = _predict(logits, None).confidence
    index = _bin_index(confidence, bins)
    total = 0.0
    for _ in range(resamples):  # one vector of N at a time: memory stays that of the logits
        uniform = torch.rand(len(confidence), generator=generator, device=generator.device, dtype=torch.float64)
        total += np.abs(np.bincount(index, confidence - (uniform.cpu().numpy() < confidence))).sum()
    return float(total / (resamples * len(confidence)))


def reliability_bins(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> ReliabilityBins:
    """Return counts, mean confidence and accuracy of each equal-width bin. Raises as `score` does."""
    predictions, bins = _predict(logits, labels), check_count("bins", bins)
    index = _bin_index(predictions.confidence, bins)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins is NaN on purpose
        confidence = np.bincount(index, predictions.confidence, minlength=bins) / counts
        right = np.bincount(index, predictions.correct, minlength=bins) / counts
    return ReliabilityBins(counts=counts, confidence=confidence, accuracy=right)


def score(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0, bins: int = 15) -> dict[str, float]:
    """Return every metric of `ddcal.config.metrics.METRICS` for softmax(logits / temperature).

    One softmax serves all. ``ece``, ``classwise_ece`` and ``adaptive_ece`` use ``bins``; ``ece_10`` and ``ece_15``
    their own number. Fractions, except ``nll`` (nats) and ``brier`` (0..2).

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
    return _score(_predict(logits, labels, temperature), check_count("bins", bins))


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
    return _score(_from_probabilities(probs, labels), check_count("bins", bins))


def check_logits(logits: ArrayLike, name: str = "logits") -> Floats:
    """Return ``logits`` as a finite float64 array (N, K) with N and K at least 1, or raise ValueError."""
    values = (
        logits.detach().cpu().double().numpy() if isinstance(logits, torch.Tensor) else np.asarray(logits, np.float64)
    )
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} has shape {values.shape}; it must be (N, K) with at least one image and one class")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{name}[{row}, {column}] is {values[row, column]}; every value must be finite")
    return values


def check_logits_labels(logits: ArrayLike, labels: ArrayLike, name: str = "logits") -> tuple[Floats, Integers]:
    """Return `check_logits` and ``labels`` as int64 (N,) in 0..K-1, or raise ValueError."""
    values = check_logits(logits, name)
    given = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if given.dtype.kind not in "iu":
        raise ValueError(f"labels has dtype {given.dtype}; it must hold integer classes")
    classes = given.astype(np.int64, copy=False)
    if classes.shape != values.shape[:1]:
        raise ValueError(f"labels has shape {classes.shape}; {name} of shape {values.shape} needs ({len(values)},)")
    outside = np.flatnonzero((classes < 0) | (classes >= values.shape[1]))
    if len(outside):
        first = outside[0]
        raise ValueError(f"labels[{first}] is {classes[first]}; it must be in 0..{values.shape[1] - 1}")
    return values, classes


def check_count(name: str, value: int) -> int:
    """Return ``value`` as an int of at least 1, or raise ValueError that calls it ``name``."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    return count


def _check_temperature(temperature: float) -> float:
    value = float(temperature)
    if not math.isfinite(value) or value == 0.0:
        raise ValueError(f"temperature is {temperature!r}; it must be a finite number other than zero")
    return value


def _predict(logits: ArrayLike, labels: ArrayLike | None, temperature: float = 1.0) -> _Predictions:
    """Return the predictions of softmax(logits / temperature); without ``labels`` only the confidence counts."""
    if labels is None:
        scores = check_logits(logits)
        classes = np.zeros(len(scores), np.int64)
    else:
        scores, classes = check_logits_labels(logits, labels)
    temperature = _check_temperature(temperature)
    if temperature < 0.0:
        scores = -scores
    # The prediction comes from the logits as given: after the division rounding could make ties of different logits.
    rows, predicted = np.arange(len(scores)), scores.argmax(axis=1)
    with np.errstate(over="ignore"):  # a tiny temperature gives -inf, whose exponential is the right 0
        shifted = (scores - scores[rows, predicted][:, None]) / abs(temperature)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1)
    nll = float((np.log(total) - shifted[rows, classes]).mean())
    return _Predictions(exponentials / total[:, None], classes, 1.0 / total, predicted == classes, nll)


def _from_probabilities(probs: ArrayLike, labels: ArrayLike) -> _Predictions:
    values, classes = check_logits_labels(probs, labels, "probs")
    wrong = np.argwhere((values < -PROBABILITY_SLACK) | (values > 1.0 + PROBABILITY_SLACK))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(f"probs[{row}, {column}] is {values[row, column]:g}; it must be in [0, 1]")
    sums = values.sum(axis=1)
    worst = int(np.abs(sums - 1.0).argmax())
    if abs(sums[worst] - 1.0) > PROBABILITY_SUM_SLACK:
        raise ValueError(f"probs[{worst}] sums to {sums[worst]:g}; every row must sum to 1")
    values = values.clip(0.0, 1.0)
    at_label = values[np.arange(len(classes)), classes]
    nll = float(-np.log(at_label.clip(LEAST_PROBABILITY)).mean())
    return _Predictions(values, classes, values.max(axis=1), values.argmax(axis=1) == classes, nll)


def _score(predictions: _Predictions, bins: int) -> dict[str, float]:
    residual = predictions.residual
    return {
        "accuracy": float(predictions.correct.mean()),
        "ece": _ece(predictions, bins),
        "ece_10": _ece(predictions, 10),
        "ece_15": _ece(predictions, 15),
        "nll": predictions.nll,
        "brier": _brier(residual),
        "classwise_ece": _classwise(predictions.probs, residual, bins),
        "adaptive_ece": _adaptive(predictions, bins),
    }


def _bin_index(values: Floats, bins: int) -> Integers:
    return np.searchsorted(np.arange(1, bins) / bins, values, side="right")


def _ece(predictions: _Predictions, bins: int) -> float:
    # In a bin, images * |mean confidence - accuracy| is |sum of (confidence - correct)|.
    index = _bin_index(predictions.confidence, bins)
    return float(np.abs(np.bincount(index, predictions.confidence - predictions.correct)).sum() / len(index))


def _brier(residual: Floats) -> float:
    return float(np.einsum("nk,nk->", residual, residual) / len(residual))


def _classwise(probs: Floats, residual: Floats, bins: int) -> float:
    index = _bin_index(probs, bins) + bins * np.arange(probs.shape[1])
    return float(np.abs(np.bincount(index.ravel(), residual.ravel())).sum() / probs.size)


def _adaptive(predictions: _Predictions, bins: int) -> float:
    order = np.argsort(predictions.confidence)
    confidence = predictions.confidence[order]
    ties = np.flatnonzero(np.r_[True, confidence[1:] != confidence[:-1]])  # where each run of equal confidences starts
    lengths = np.diff(np.r_[ties, len(order)])
    right = np.repeat(np.add.reduceat(predictions.correct[order].astype(np.float64), ties) / lengths, lengths)
    runs = min(bins, len(order))
    quotient, remainder = divmod(len(order), runs)
    starts = np.arange(runs) * quotient + np.minimum(np.arange(runs), remainder)
    return float(np.abs(np.add.reduceat(confidence - right, starts)).sum() / len(order))
