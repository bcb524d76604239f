"""Isotonic regression, one class against the rest, normalised (Zadrozny & Elkan 2002)."""

from __future__ import annotations

from dataclasses import dataclass
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
from ddcal.calibration.checks import ArrayLike, Floats, check_logits_labels


@dataclass(frozen=True, eq=False)
class IsotonicCalibration:
    """A rising function of each class's probability, fitted by least squares; it may change the predicted class.

    scikit-learn's IsotonicRegression fits "the label is k" against softmax(logits)_k; between its thresholds the
    function is a straight line, beyond them constant. Its values are kept within `one_vs_rest_limits`, and rows are
    divided by their sum.

    Attributes:
        thresholds: For each class where its function bends and what it is there, two float64 arrays; once fitted.
        images: How many images it was fitted on.
    """

    thresholds: tuple[tuple[Floats, Floats], ...] | None = None
    images: int = 0

    name = "isotonic"
    keeps_accuracy = False

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the functions of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        from sklearn.isotonic import IsotonicRegression

        scores, classes = check_logits_labels(logits, labels)
        probabilities = softmax(scores)
        fitted = []
        for label in range(scores.shape[1]):
            regression = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
            regression.fit(probabilities[:, label], (classes == label).astype(np.float64))
            fitted.append((np.asarray(regression.X_thresholds_), np.asarray(regression.y_thresholds_)))
        return type(self)(tuple(fitted), len(scores))

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return the values of the functions over their sum, float64 (N, K)."""
        values = fitted_logits(logits, None if self.thresholds is None else len(self.thresholds), "isotonic regression")
        assert self.thresholds is not None
        probabilities = softmax(values)
        columns = [np.interp(probabilities[:, k], *bends) for k, bends in enumerate(self.thresholds)]
        return normalised(np.stack(columns, axis=1).clip(*one_vs_rest_limits(self.images)))

    def facts(self) -> dict[str, Any]:
        """Return how many images it was fitted on."""
        return {"images": self.images}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.thresholds is not None, "isotonic regression")
        assert self.thresholds is not None
        tensors = {
            "places": np.concatenate([places for places, _ in self.thresholds]),
            "values": np.concatenate([values for _, values in self.thresholds]),
            "counts": np.array([len(places) for places, _ in self.thresholds], np.int64),
        }
        write_calibrator(folder, self.name, self.facts(), tensors)

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        ends = np.cumsum(tensors["counts"])[:-1]
        each = zip(np.split(tensors["places"], ends), np.split(tensors["values"], ends), strict=True)
        return cls(tuple(each), facts["images"])
