"""Ensemble temperature scaling: temperature scaling mixed with raw and uniform probabilities (Zhang et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ddcal.calibration.calibrator import Tensors, check_fitted, fitted_logits, write_calibrator
from ddcal.calibration.checks import ArrayLike, Floats, check_logits_labels
from ddcal.calibration.temperature import check_bounds, fit_temperature
from ddcal.calibration.temperature_scaling import TemperatureScaling

MOST_UNIFORM = 0.999
"""The largest weight of the uniform probabilities: with all of the weight no class would be the most likely one."""


@dataclass(frozen=True, eq=False)
class EnsembleTemperatureScaling:
    """w₁ · softmax(logits / T) + w₂ · softmax(logits) + w₃ / K; the order of the classes stays, and the accuracy.

    As in the paper's section 4.2 (Mix-n-Match), T is fitted first, by temperature scaling, and then the weights, which
    are 0 or more and sum to 1, minimise the negative log-likelihood at that T: a convex problem of two numbers.

    Attributes:
        bounds: Lowest and highest temperature.
        temperature: T, once fitted.
        weights: (w₁, w₂, w₃), once fitted.
        nll: Mean negative log-likelihood of the fitted images, in nats.
    """

    bounds: tuple[float, float] = (0.05, 20.0)
    temperature: float | None = None
    weights: tuple[float, float, float] | None = None
    nll: float = math.nan

    name = "ensemble_temperature"
    keeps_accuracy = True

    def __post_init__(self) -> None:
        check_bounds(self.bounds)

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the temperature and weights of these images.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """
        scores, classes = check_logits_labels(logits, labels)
        temperature = fit_temperature(scores, classes, self.bounds).temperature
        rows = np.arange(len(scores))
        at_label = np.stack(
            [
                TemperatureScaling(temperature=temperature).probabilities(scores)[rows, classes],
                TemperatureScaling(temperature=1.0).probabilities(scores)[rows, classes],
                np.full(len(scores), 1.0 / scores.shape[1]),
            ],
            axis=1,
        )
        weights = _mixture_weights(at_label)
        nll = _mixture_nll(np.array(weights), at_label)
        return replace(self, temperature=temperature, weights=weights, nll=nll)

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return the mixture, float64 (N, K)."""
        values = fitted_logits(logits, None if self.weights is None else 0, "ensemble temperature scaling")
        assert self.weights is not None
        scaled, plain, uniform = self.weights
        mixed = np.full(values.shape, uniform / values.shape[1])
        mixed += scaled * TemperatureScaling(temperature=self.temperature).probabilities(values)
        mixed += plain * TemperatureScaling(temperature=1.0).probabilities(values)
        return mixed

    def facts(self) -> dict[str, Any]:
        """Return bounds, T, the weights and the NLL of the fit."""
        values = {"bounds": list(self.bounds), "temperature": self.temperature}
        weights = None if self.weights is None else list(self.weights)
        return values | {"weights": weights, "nll": None if math.isnan(self.nll) else self.nll}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.weights is not None, "ensemble temperature scaling")
        parameters = {"temperature": np.array([self.temperature]), "weights": np.array(self.weights)}
        write_calibrator(folder, self.name, self.facts(), parameters)

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        low, high = facts["bounds"]
        first, second, third = (float(weight) for weight in tensors["weights"])
        nll = math.nan if facts["nll"] is None else facts["nll"]
        return cls((low, high), float(tensors["temperature"][0]), (first, second, third), nll)


def _mixture_nll(weights: Floats, at_label: Floats) -> float:
    return float(-np.log(np.maximum(at_label @ weights, np.finfo(np.float64).tiny)).mean())


def _mixture_weights(at_label: Floats) -> tuple[float, float, float]:
    """Return the weights of the columns of ``at_label`` (N, 3), probabilities of the labels, that maximise the mixture.

    Expectation maximisation never leaves the simplex and never does worse than it did, from any start; it slows down
    near the optimum, which the last steps, by SLSQP, go on to. What is better of the two counts.
    """
    from scipy.optimize import minimize

    weights = np.array([0.8, 0.1, 0.1])
    for _ in range(100):
        shares = at_label * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)

    def slope(values: Floats) -> Floats:
        mixed = np.maximum(at_label @ values, np.finfo(np.float64).tiny)
        gradient: Floats = -(at_label / mixed[:, None]).mean(axis=0)
        return gradient

    found = minimize(
        _mixture_nll,
        weights,
        args=(at_label,),
        jac=lambda values, _: slope(values),
        bounds=[(0.0, 1.0)] * 3,
        constraints={"type": "eq", "fun": lambda values: values.sum() - 1.0, "jac": lambda values: np.ones(3)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x
    polished = np.clip(found, 0.0, 1.0)
    if polished.sum() > 0.0:
        polished /= polished.sum()
        if _mixture_nll(polished, at_label) <= _mixture_nll(weights, at_label):
            weights = polished
    if weights[2] > MOST_UNIFORM:
        rest = weights[:2].sum()
        share = weights[:2] / rest if rest > 0.0 else np.array([1.0, 0.0])
        weights = np.append(share * (1.0 - MOST_UNIFORM), MOST_UNIFORM)
    first, second, third = (float(weight) for weight in weights)
    return first, second, third
