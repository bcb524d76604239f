"""Affine maps of all logits: matrix scaling, and the structured vector and matrix scaling of 2026.

Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2; Berta, Holzmüller, Jordan, Bach,
"Structured Matrix Scaling for Multi-Class Calibration" (AISTATS 2026), whose penalties these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ddcal.calibration.calibrator import Tensors, check_fitted, fitted_logits, softmax, write_calibrator
from ddcal.calibration.checks import ArrayLike, Floats, check_logits_labels
from ddcal.calibration.temperature import check_bounds, fit_temperature

GRADIENT_TOLERANCE = 1e-9
ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class StructuredMatrixScaling:
    """softmax(z + D·z + b) with z = log softmax(logits / T): T is fitted first, by temperature scaling, then D and b.

    Of n images with K classes they minimise the mean negative log-likelihood plus
    s · (K/n · (|b|² + Σᵢ Dᵢᵢ²) + K(K − 1)/n · Σᵢ≠ⱼ Dᵢⱼ²), by L-BFGS: a convex problem with a single optimum. The fewer
    the images, the nearer it stays to temperature scaling. It may change which class is predicted.

    Attributes:
        bounds: Lowest and highest temperature.
        strength: s, above 0; 1 as in the paper.
        temperature: T, once fitted.
        change: D, float64 (K, K), or its diagonal (K,) of `StructuredVectorScaling`, once fitted.
        shift: b, float64 (K,), once fitted.
        nll: Mean negative log-likelihood of the fitted images, in nats, without the penalties.
    """

    bounds: tuple[float, float] = (0.05, 20.0)
    strength: float = 1.0
    temperature: float | None = None
    change: Floats | None = None
    shift: Floats | None = None
    nll: float = math.nan

    name: ClassVar[str] = "structured_matrix"
    keeps_accuracy: ClassVar[bool] = False
    diagonal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_bounds(self.bounds)
        if not 0.0 < self.strength < math.inf:
            raise ValueError(f"strength is {self.strength!r}; it must be a finite number above 0")

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the temperature, the change and the shifts of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        scores, classes = check_logits_labels(logits, labels)
        temperature = fit_temperature(scores, classes, self.bounds).temperature
        count, width = scores.shape
        on_diagonal = self.strength * width / count
        penalty = np.full(width if self.diagonal else (width, width), on_diagonal)
        if not self.diagonal:
            penalty *= width - 1.0
            np.fill_diagonal(penalty, on_diagonal)
        change, shift, nll = fit_affine(log_softmax(scores / temperature), classes, penalty, on_diagonal)
        return replace(self, temperature=temperature, change=change, shift=shift, nll=nll)

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return softmax(z + D·z + b), float64 (N, K)."""
        values = fitted_logits(logits, None if self.shift is None else len(self.shift), self.name.replace("_", " "))
        assert self.temperature is not None and self.change is not None and self.shift is not None
        return softmax(_mapped(log_softmax(values / self.temperature), self.change, self.shift))

    def facts(self) -> dict[str, Any]:
        """Return bounds, strength, T and the NLL of the fit."""
        values = {"bounds": list(self.bounds), "strength": self.strength, "temperature": self.temperature}
        return values | {"nll": None if math.isnan(self.nll) else self.nll}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.shift is not None, self.name.replace("_", " "))
        assert self.change is not None and self.shift is not None
        parameters = {"temperature": np.array([self.temperature]), "change": self.change, "shift": self.shift}
        write_calibrator(folder, self.name, self.facts(), parameters)

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        nll = math.nan if facts["nll"] is None else facts["nll"]
        temperature, low_high = float(tensors["temperature"][0]), tuple(facts["bounds"])
        return cls(low_high, facts["strength"], temperature, tensors["change"], tensors["shift"], nll)


@dataclass(frozen=True, eq=False)
class StructuredVectorScaling(StructuredMatrixScaling):
    """As `StructuredMatrixScaling` with nothing but the diagonal of D: a scale and a shift a class."""

    name: ClassVar[str] = "structured_vector"
    diagonal: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class MatrixScaling:
    """softmax(logits + D·logits + b), fitted with a ridge that is as good as none: K² + K free numbers.

    Attributes:
        ridge: Weight of |D|² + |b|², above 0: it makes the optimum a single one, and finite.
        change: D, float64 (K, K), once fitted.
        shift: b, float64 (K,), once fitted.
        nll: Mean negative log-likelihood of the fitted images, in nats, without the ridge.
    """

    ridge: float = 1e-6
    change: Floats | None = None
    shift: Floats | None = None
    nll: float = math.nan

    name: ClassVar[str] = "matrix"
    keeps_accuracy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.ridge < math.inf:
            raise ValueError(f"ridge is {self.ridge!r}; it must be a finite number above 0")

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the change and the shifts of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        scores, classes = check_logits_labels(logits, labels)
        width = scores.shape[1]
        change, shift, nll = fit_affine(scores, classes, np.full((width, width), self.ridge), self.ridge)
        return replace(self, change=change, shift=shift, nll=nll)

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return softmax(logits + D·logits + b), float64 (N, K)."""
        values = fitted_logits(logits, None if self.shift is None else len(self.shift), "matrix scaling")
        assert self.change is not None and self.shift is not None
        return softmax(_mapped(values, self.change, self.shift))

    def facts(self) -> dict[str, Any]:
        """Return the ridge and the NLL of the fit."""
        return {"ridge": self.ridge, "nll": None if math.isnan(self.nll) else self.nll}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.shift is not None, "matrix scaling")
        assert self.change is not None and self.shift is not None
        write_calibrator(folder, self.name, self.facts(), {"change": self.change, "shift": self.shift})

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        nll = math.nan if facts["nll"] is None else facts["nll"]
        return cls(facts["ridge"], tensors["change"], tensors["shift"], nll)


def fit_affine(
    scores: Floats, classes: np.ndarray[Any, Any], penalty: Floats, shift_penalty: float
) -> tuple[Floats, Floats, float]:
    """Return D, b and the mean negative log-likelihood in nats of softmax(z + D·z + b).

    They minimise that mean plus Σ penalty · D² + shift_penalty · |b|².

    Args:
        scores: z, float64 (N, K).
        classes: int64 (N,).
        penalty: Above 0, of D's shape: (K, K), or (K,) where D is its diagonal.
        shift_penalty: Above 0.
    """
    from scipy.optimize import minimize

    count, width = scores.shape
    rows = np.arange(count)

    def parts(values: Floats) -> tuple[Floats, Floats]:
        return values[:-width].reshape(penalty.shape), values[-width:]

    def likelihood(change: Floats, shift: Floats) -> tuple[float, Floats]:
        logs = log_softmax(_mapped(scores, change, shift))
        residual = np.exp(logs)
        residual[rows, classes] -= 1.0
        return -float(logs[rows, classes].mean()), residual / count

    def loss_and_gradient(values: Floats) -> tuple[float, Floats]:
        change, shift = parts(values)
        nll, residual = likelihood(change, shift)
        slopes = np.einsum("nk,nk->k", residual, scores) if penalty.ndim == 1 else residual.T @ scores
        loss = nll + float((penalty * change**2).sum()) + shift_penalty * float(shift @ shift)
        of_shift = residual.sum(axis=0) + 2.0 * shift_penalty * shift
        return loss, np.concatenate([(slopes + 2.0 * penalty * change).ravel(), of_shift])

    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": GRADIENT_TOLERANCE, "ftol": 0.0}
    start = np.zeros(penalty.size + width)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x
    change, shift = parts(found)
    return change.copy(), shift.copy(), likelihood(change, shift)[0]


def log_softmax(scores: Floats) -> Floats:
    """Return the logarithm of the softmax of each row, float64 (N, K)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _mapped(scores: Floats, change: Floats, shift: Floats) -> Floats:
    mapped: Floats = scores + (scores * change if change.ndim == 1 else scores @ change.T) + shift
    return mapped
