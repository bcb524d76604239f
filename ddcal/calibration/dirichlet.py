"""Dirichlet calibration: an affine map of the logarithms of the probabilities, held near one a class.

Kull, Perello-Nieto, Kängsepp, Silva Filho, Song, Flach, "Beyond temperature scaling: Obtaining well-calibrated
multiclass probabilities with Dirichlet calibration" (NeurIPS 2019), section 3; ODIR is its regularisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ddcal.calibration.calibrator import Tensors, check_fitted, fitted_logits, softmax, write_calibrator
from ddcal.calibration.checks import ArrayLike, Floats, check_logits_labels
from ddcal.calibration.matrix_scaling import fit_affine, log_softmax

RIDGE = 1e-6
"""Weight of the squares of what ODIR leaves free, the diagonal less 1: so the optimum is a single one, and finite."""


@dataclass(frozen=True, eq=False)
class DirichletCalibration:
    """softmax(W·log p + b) with p = softmax(logits).

    W and b minimise the mean negative log-likelihood plus s · (Σᵢ≠ⱼ Wᵢⱼ² / (K(K − 1)) + |b|² / K), ODIR with λ = μ = s,
    by L-BFGS: a convex problem. The paper chooses λ and μ by cross-validation; here s is set. It may change which class
    is predicted.

    Attributes:
        strength: s, above 0.
        matrix: W, float64 (K, K), once fitted.
        shift: b, float64 (K,), once fitted.
        nll: Mean negative log-likelihood of the fitted images, in nats, without the penalty.
    """

    strength: float = 0.1
    matrix: Floats | None = None
    shift: Floats | None = None
    nll: float = math.nan

    name: ClassVar[str] = "dirichlet"
    keeps_accuracy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.strength < math.inf:
            raise ValueError(f"strength is {self.strength!r}; it must be a finite number above 0")

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the matrix and the shifts of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        scores, classes = check_logits_labels(logits, labels)
        width = scores.shape[1]
        penalty = np.full((width, width), self.strength / max(1, width * (width - 1)))
        np.fill_diagonal(penalty, RIDGE)
        change, shift, nll = fit_affine(log_softmax(scores), classes, penalty, self.strength / width)
        return replace(self, matrix=np.eye(width) + change, shift=shift, nll=nll)

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return softmax(W·log p + b), float64 (N, K)."""
        values = fitted_logits(logits, None if self.shift is None else len(self.shift), "Dirichlet calibration")
        assert self.matrix is not None and self.shift is not None
        return softmax(log_softmax(values) @ self.matrix.T + self.shift)

    def facts(self) -> dict[str, Any]:
        """Return the strength and the NLL of the fit."""
        return {"strength": self.strength, "nll": None if math.isnan(self.nll) else self.nll}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.shift is not None, "Dirichlet calibration")
        assert self.matrix is not None and self.shift is not None
        write_calibrator(folder, self.name, self.facts(), {"matrix": self.matrix, "shift": self.shift})

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        nll = math.nan if facts["nll"] is None else facts["nll"]
        return cls(facts["strength"], tensors["matrix"], tensors["shift"], nll)
