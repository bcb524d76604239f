"""Histogram binning, one class against the rest, normalised (Zadrozny & Elkan 2001; Guo et al. 2017, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ddcal.calibration.calibrator import (
    Tensors,
    check_fitted,
    fitted_logits,
    normalised,
    one_vs_rest_limits,
    softmax,
    write_calibrator,
)
from ddcal.calibration.checks import ArrayLike, Floats, Integers, check_count, check_logits_labels
from ddcal.config.calibrations import HISTOGRAM_BINS


@dataclass(frozen=True, eq=False)
class HistogramBinning:
    """The share of images of a class among those of about the same probability; it may change the predicted class.

    The softmax probability of every class is cut into equal-width bins, closed on the left, as for the ECE. A bin's
    value is the share of its images that have the label; an empty bin's is its middle. Values are kept within
    `one_vs_rest_limits`, and rows are divided by their sum.

    Attributes:
        bins: Number of bins.
        values: The value of every class's bins, float64 (K, bins), once fitted.
        images: How many images it was fitted on.
    """

    bins: int = HISTOGRAM_BINS
    values: Floats | None = None
    images: int = 0

    name = "histogram"
    keeps_accuracy = False

    def __post_init__(self) -> None:
        check_count("bins", self.bins)

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the shares of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        scores, classes = check_logits_labels(logits, labels)
        width = scores.shape[1]
        index = self._bin(softmax(scores)) + self.bins * np.arange(width)
        counts = np.bincount(index.ravel(), minlength=self.bins * width)
        own = np.bincount(index[np.arange(len(scores)), classes], minlength=self.bins * width)
        middles = np.tile((np.arange(self.bins) + 0.5) / self.bins, width)
        values = np.where(counts > 0, own / np.maximum(counts, 1), middles)
        return replace(self, values=values.reshape(width, self.bins), images=len(scores))

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return the values of the bins over their sum, float64 (N, K)."""
        scores = fitted_logits(logits, None if self.values is None else len(self.values), "histogram binning")
        assert self.values is not None
        columns = self.values[np.arange(scores.shape[1]), self._bin(softmax(scores))]
        return normalised(columns.clip(*one_vs_rest_limits(self.images)))

    def facts(self) -> dict[str, Any]:
        """Return the number of bins and of images."""
        return {"bins": self.bins, "images": self.images}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.values is not None, "histogram binning")
        assert self.values is not None
        write_calibrator(folder, self.name, self.facts(), {"values": self.values})

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        return cls(facts["bins"], tensors["values"], facts["images"])

    def _bin(self, probabilities: Floats) -> Integers:
        index: Integers = np.searchsorted(np.arange(1, self.bins) / self.bins, probabilities, side="right")
        return index
