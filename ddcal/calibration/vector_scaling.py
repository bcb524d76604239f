"""Vector scaling: a scale and a shift for the logit of every class (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ddcal.calibration.calibrator import Tensors, check_fitted, fitted_logits, softmax, write_calibrator
from ddcal.calibration.checks import ArrayLike, Floats, check_logits_labels

RIDGE = 1e-6
"""Default weight of the ridge: too small to be seen in the probabilities, and enough for a single optimum."""
GRADIENT_TOLERANCE = 1e-9
ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class VectorScaling:
    """softmax(w · logits + b) with one w and one b a class; it may change which class is predicted.

    The mean negative log-likelihood plus ridge/2 · (|w − 1|² + |b|²) is minimised by L-BFGS. It is convex in (w, b);
    the ridge makes the optimum a single one, which it is not without: the same number added to every b changes nothing,
    and images that are all right would have w grow without end.

    Attributes:
        ridge: Weight of the ridge, 0 or more.
        scale: w, float64 (K,), once fitted.
        shift: b, float64 (K,), once fitted.
        nll: Mean negative log-likelihood of the fitted images, in nats, without the ridge.
    """

    ridge: float = RIDGE
    scale: Floats | None = None
    shift: Floats | None = None
    nll: float = math.nan

    name = "vector"
    keeps_accuracy = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.ridge < math.inf:
            raise ValueError(f"ridge is {self.ridge!r}; it must be a finite number of at least 0")

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the scales and shifts of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        from scipy.optimize import minimize

        scores, classes = check_logits_labels(logits, labels)
        count, width = scores.shape
        rows = np.arange(count)

        def loss_and_gradient(values: Floats) -> tuple[float, Floats]:
            scale, shift = values[:width], values[width:]
            scaled = scores * scale + shift
            residual = softmax(scaled)
            top = scaled.max(axis=1)
            nll = float((np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - scaled[rows, classes]).mean())
            residual[rows, classes] -= 1.0
            slopes = np.concatenate([np.einsum("nk,nk->k", residual, scores), residual.sum(axis=0)]) / count
            away = values - start
            return nll + 0.5 * self.ridge * float(away @ away), slopes + self.ridge * away

        start = np.concatenate([np.ones(width), np.zeros(width)])
        options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "gtol": GRADIENT_TOLERANCE, "ftol": 0.0}
        found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x
        away = found - start
        nll = loss_and_gradient(found)[0] - 0.5 * self.ridge * float(away @ away)
        return replace(self, scale=found[:width].copy(), shift=found[width:].copy(), nll=nll)

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return softmax(w · logits + b), float64 (N, K)."""
        values = fitted_logits(logits, None if self.scale is None else len(self.scale), "vector scaling")
        assert self.scale is not None and self.shift is not None
        return softmax(values * self.scale + self.shift)

    def facts(self) -> dict[str, Any]:
        """Return the ridge and the NLL of the fit."""
        return {"ridge": self.ridge, "nll": None if math.isnan(self.nll) else self.nll}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.scale is not None, "vector scaling")
        assert self.scale is not None and self.shift is not None
        write_calibrator(folder, self.name, self.facts(), {"scale": self.scale, "shift": self.shift})

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        nll = math.nan if facts["nll"] is None else facts["nll"]
        return cls(facts["ridge"], tensors["scale"], tensors["shift"], nll)
