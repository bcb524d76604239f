"""One pass over the classes, in float64: what is left are a few numbers an image, which all metrics share.

Images are taken in blocks that stay in the processor's cache, so that a million of them need neither a float64 copy of
their logits nor the time to move one about.

Tie rule: the prediction is the first of equal largest logits. Bin rule (method.md, ECE): equal-width bins
[k/bins, (k+1)/bins), closed on the left, with 1.0 in the last bin. An edge is the double nearest to k/bins, compared
exactly: a confidence of 1/5 is on the edge 3/15.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ddcal.calibration.checks import ArrayLike, Floats, Integers, check_labels, check_matrix, check_temperature

PROBABILITY_SLACK = 1e-6
"""Rounding allowed outside [0, 1] in ``probs``; such values are clipped."""
PROBABILITY_SUM_SLACK = 1e-4
"""Rounding allowed in the sum of a row of ``probs`` (float32 softmax of many classes); rows are not renormalised."""
LEAST_PROBABILITY = 1e-12
"""What counts for a smaller probability at the label, in the NLL of ``probs`` alone: at most 27.6 nats an image."""
BLOCK = 1 << 16
"""Numbers (images times classes) that are worked on at once: half a megabyte an array."""


@dataclass(frozen=True, eq=False)
class ClassErrors:
    """The errors of all classes' probabilities; p - y is a probability less 1 at the label and less 0 elsewhere.

    Attributes:
        squared: float64 (N,), the sum over classes of (p - y)², for each image.
        counts: int64 (K, bins), images whose probability of the class is in the bin.
        gaps: float64 (K, bins), the sum of their p - y.
        cells: int64 (N, K), where each probability is in the flattened (K, bins); None unless asked for.
        residuals: float64 (N, K), each p - y; None unless asked for.
    """

    squared: Floats
    counts: Integers
    gaps: Floats
    cells: Integers | None = None
    residuals: Floats | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the metrics need of N images; each array is (N,).

    Attributes:
        confidence: float64, the largest probability.
        correct: bool, whether the first largest is at the label.
        nll: float64, minus the logarithm of the probability at the label, in nats.
        classes: The errors of all classes, where they were asked for.
    """

    confidence: Floats
    correct: npt.NDArray[np.bool_]
    nll: Floats
    classes: ClassErrors | None = None

    @property
    def gaps(self) -> Floats:
        """Confidence less correctness."""
        return self.confidence - self.correct

    @property
    def errors(self) -> ClassErrors:
        """`classes`, which must have been asked for."""
        assert self.classes is not None
        return self.classes


def predict(
    logits: ArrayLike,
    labels: ArrayLike | None,
    temperature: float = 1.0,
    class_bins: int | None = None,
    each: bool = False,
) -> Predictions:
    """Return the predictions of softmax(logits / temperature).

    Args:
        logits: (N, K) floats.
        labels: (N,) integers in 0..K-1; without them the confidence alone means anything.
        temperature: Finite and not zero.
        class_bins: Bins of the classes' probabilities; None leaves their errors out.
        each: Whether ``cells`` and ``residuals`` of the classes' errors are kept: 16 bytes a logit.

    Raises:
        ValueError: As `ddcal.calibration.score`.
    """
    scores = check_matrix(logits)
    classes = np.zeros(len(scores), np.int64) if labels is None else check_labels(labels, scores.shape)
    temperature = check_temperature(temperature)
    collected = _Collected(scores.shape, class_bins, each)
    for block in blocks(scores.shape):
        values = scores[block].astype(np.float64)
        if temperature < 0.0:
            np.negative(values, out=values)
        rows, at_label = np.arange(len(values)), classes[block]
        # The prediction comes from the logits as given: after the division rounding could make ties of different ones.
        predicted = values.argmax(axis=1)
        values -= values[rows, predicted][:, None]
        if abs(temperature) != 1.0:
            with np.errstate(over="ignore"):  # a tiny temperature gives -inf, whose exponential is the right 0
                values /= abs(temperature)
        shifted = values[rows, at_label]
        np.exp(values, out=values)
        total = values.sum(axis=1)
        collected.take(block, 1.0 / total, predicted == at_label, np.log(total) - shifted)
        if class_bins is not None:
            values /= total[:, None]
            collected.take_classes(block, values, at_label)
    return collected.predictions()


def predict_from_probabilities(
    probs: ArrayLike, labels: ArrayLike, class_bins: int | None = None, each: bool = False
) -> Predictions:
    """Return the predictions that ``probs`` are; its nll has `LEAST_PROBABILITY` for what is smaller.

    Args:
        probs: (N, K) probabilities whose rows sum to 1.
        labels: (N,) integers in 0..K-1.
        class_bins: As `predict`.
        each: As `predict`.

    Raises:
        ValueError: As `ddcal.calibration.expected_calibration_error`.
    """
    given = check_matrix(probs, "probs")
    classes = check_labels(labels, given.shape, "probs")
    if given.min() < -PROBABILITY_SLACK or given.max() > 1.0 + PROBABILITY_SLACK:
        row, column = np.argwhere((given < -PROBABILITY_SLACK) | (given > 1.0 + PROBABILITY_SLACK))[0]
        raise ValueError(f"probs[{row}, {column}] is {given[row, column]:g}; it must be in [0, 1]")
    collected = _Collected(given.shape, class_bins, each)
    for block in blocks(given.shape):
        values = given[block].astype(np.float64)
        sums = values.sum(axis=1)
        worst = int(np.abs(sums - 1.0).argmax())
        if abs(sums[worst] - 1.0) > PROBABILITY_SUM_SLACK:
            raise ValueError(f"probs[{block.start + worst}] sums to {sums[worst]:g}; every row must sum to 1")
        np.clip(values, 0.0, 1.0, out=values)
        rows, at_label = np.arange(len(values)), classes[block]
        predicted = values.argmax(axis=1)
        nll = np.abs(np.log(values[rows, at_label].clip(LEAST_PROBABILITY)))  # no logarithm here is above 0
        collected.take(block, values[rows, predicted], predicted == at_label, nll)
        if class_bins is not None:
            collected.take_classes(block, values, at_label)
    return collected.predictions()


def bin_index(values: Floats, bins: int) -> npt.NDArray[np.intp]:
    """Return the equal-width bin of each value in [0, 1], by the rule of the module."""
    index = (values * bins).astype(np.intp)
    # The product is rounded: next to an edge it may be on the wrong side, by one bin.
    index -= values < index / bins
    index += values >= (index + 1) / bins
    return np.minimum(index, bins - 1, out=index)


class _Collected:
    """The arrays of `Predictions`, filled block by block."""

    def __init__(self, shape: tuple[int, ...], class_bins: int | None, each: bool) -> None:
        images, self.number = shape
        self.bins = class_bins
        self.confidence, self.nll = np.empty(images), np.empty(images)
        self.correct = np.empty(images, np.bool_)
        cells = self.number * (class_bins or 0)
        self.squared = np.empty(images if class_bins else 0)
        self.counts, self.gaps = np.zeros(cells, np.int64), np.zeros(cells)
        self.cells = np.empty(shape, np.int64) if each else None
        self.residuals = np.empty(shape) if each else None

    def take(self, block: slice, confidence: Floats, correct: npt.NDArray[np.bool_], nll: Floats) -> None:
        self.confidence[block], self.correct[block], self.nll[block] = confidence, correct, nll

    def take_classes(self, block: slice, probs: Floats, labels: Integers) -> None:
        """Take the probabilities of a block, which are overwritten."""
        assert self.bins is not None
        cells = bin_index(probs, self.bins) + self.bins * np.arange(self.number)
        residuals = probs
        residuals[np.arange(len(probs)), labels] -= 1.0
        self.squared[block] = np.einsum("nk,nk->n", residuals, residuals)
        self.counts += np.bincount(cells.ravel(), minlength=len(self.counts))
        self.gaps += np.bincount(cells.ravel(), residuals.ravel(), minlength=len(self.gaps))
        if self.cells is not None and self.residuals is not None:
            self.cells[block], self.residuals[block] = cells, residuals

    def predictions(self) -> Predictions:
        errors = None
        if self.bins is not None:
            table = (self.number, self.bins)
            counts, gaps = self.counts.reshape(table), self.gaps.reshape(table)
            errors = ClassErrors(self.squared, counts, gaps, self.cells, self.residuals)
        return Predictions(self.confidence, self.correct, self.nll, errors)


def blocks(shape: tuple[int, ...]) -> list[slice]:
    """Return the rows of an array of this shape (N, K) in blocks of about `BLOCK` numbers."""
    images, classes = shape
    step = max(1, BLOCK // classes)
    return [slice(start, min(start + step, images)) for start in range(0, images, step)]
