"""Each metric as a function of how often every image was drawn, so that resamples cost a product each, not a softmax.

A resample of N images is a vector of N counts that add up to N. Accuracy, NLL and Brier score are its product with
numbers an image; ECE, MCE, the class-wise ECE and the Brier score's parts are functions of sums over bins, whose edges
do not move, and each sum is such a product too. Equal-mass bins and the risk-coverage curve keep the order of the
images: each counts as often as it was drawn. The results are what `ddcal.calibration.score` says of the drawn images,
but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ddcal.calibration.checks import Floats, Integers
from ddcal.calibration.metrics.predictions import Predictions, bin_index
from ddcal.calibration.metrics.ranking import Ranked, average_ties, equal_mass_ece, risk_coverage_area
from ddcal.calibration.metrics.scores import function_of
from ddcal.calibration.metrics.smooth import fixed_point, on_cells
from ddcal.config.metrics import METRICS

Statistic = Callable[[Floats], Floats]
"""(N, R) counts, a column a resample → the metric of each, (R,)."""

CLASS_BIN_METRICS = ("classwise_ece", "brier_calibration", "brier_refinement")
"""Metrics that need the class errors of every image."""


def statistic(metric: str, predictions: Predictions, bins: int) -> Statistic:
    """Return one of `ddcal.config.metrics.METRICS` as a function of counts.

    Args:
        metric: Its name.
        predictions: Of N images; for ``brier`` with class errors, for `CLASS_BIN_METRICS` with those of ``bins`` bins,
            kept for each image.
        bins: Number of bins of the metrics whose names have none.
    """
    name, _, suffix = metric.rpartition("_")
    if suffix in ("10", "15"):
        metric, bins = name, int(suffix)
    if metric == "accuracy":
        return _mean(predictions.correct.astype(np.float64))
    if metric == "nll":
        return _mean(predictions.nll)
    if metric in ("ece", "mce"):
        index = bin_index(predictions.confidence, bins)[:, None]
        gaps, drawn = _sums(index, predictions.gaps[:, None], bins), _sums(index, None, bins)
        return (
            (lambda counts: _total(gaps, counts)) if metric == "ece" else lambda counts: _largest(gaps, drawn, counts)
        )
    if metric == "brier":
        return _mean(predictions.errors.squared)
    if metric in CLASS_BIN_METRICS:
        return _of_classes(metric, predictions, bins)
    if metric == "smooth_ece":
        return _each(
            lambda counts: fixed_point(on_cells(predictions.confidence, predictions.gaps * counts / len(counts)))
        )
    if METRICS[metric].function:
        return _each(lambda counts: function_of(metric)(_drawn(predictions, counts), bins))
    order = np.argsort(predictions.confidence)
    confidence, correct = predictions.confidence[order], predictions.correct[order].astype(np.float64)

    def drawn_ranked(counts: Floats) -> Ranked:
        times = counts[order].astype(np.int64)
        return average_ties(np.repeat(confidence, times), np.repeat(correct, times))

    if metric == "adaptive_ece":
        return _each(lambda counts: equal_mass_ece(drawn_ranked(counts), bins))
    assert metric == "aurc", metric
    return _each(lambda counts: risk_coverage_area(drawn_ranked(counts)))


def _drawn(predictions: Predictions, counts: Floats) -> Predictions:
    """Return the predictions, each as often as it was drawn; without the errors of classes."""
    times = counts.astype(np.int64)
    confidence, correct = np.repeat(predictions.confidence, times), np.repeat(predictions.correct, times)
    return Predictions(confidence, correct, np.repeat(predictions.nll, times))


def _of_classes(metric: str, predictions: Predictions, bins: int) -> Statistic:
    errors = predictions.errors
    assert errors.cells is not None and errors.residuals is not None
    classes = errors.cells.shape[1]
    gaps = _sums(errors.cells, errors.residuals, classes * bins)
    if metric == "classwise_ece":
        return lambda counts: _total(gaps, counts) / classes
    drawn = _sums(errors.cells, None, classes * bins)

    def calibration(counts: Floats) -> Floats:
        return (gaps(counts) ** 2 / drawn(counts).clip(1.0)).sum(axis=0) / len(counts)

    if metric == "brier_calibration":
        return calibration
    brier = _mean(errors.squared)
    return lambda counts: (brier(counts) - calibration(counts)).clip(0.0)


def _mean(values: Floats) -> Statistic:
    return lambda counts: values @ counts / len(counts)


def _total(gaps: Statistic, counts: Floats) -> Floats:
    return np.abs(gaps(counts)).sum(axis=0) / len(counts)


def _largest(gaps: Statistic, drawn: Statistic, counts: Floats) -> Floats:
    return (np.abs(gaps(counts)) / drawn(counts).clip(1.0)).max(axis=0)


def _each(metric: Callable[[Floats], float]) -> Statistic:
    return lambda counts: np.array([metric(column) for column in np.ascontiguousarray(counts.T)])


def _sums(cells: npt.NDArray[np.intp] | Integers, values: Floats | None, number: int) -> Statistic:
    """Return counts → (number, R), the sums over cells of ``values`` (or 1), both (N, J) with J cells an image."""
    from scipy.sparse import csc_array

    images, width = cells.shape
    entries = np.ones(cells.size) if values is None else values.ravel()
    starts = np.arange(0, cells.size + 1, width)
    matrix = csc_array((entries, cells.ravel(), starts), shape=(number, images))
    return lambda counts: matrix @ counts
