"""Temperature scaling as a calibrator: softmax(logits / T) (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ddcal.calibration.calibrator import Tensors, check_fitted, fitted_logits, write_calibrator
from ddcal.calibration.checks import ArrayLike, Floats
from ddcal.calibration.temperature import check_bounds, check_solver, fit_temperature


@dataclass(frozen=True)
class TemperatureScaling:
    """One number that divides all logits; a positive one leaves the accuracy as it is.

    Attributes:
        bounds: Lowest and highest temperature of a fit.
        solver: ``bounded`` or ``paper_lbfgs``, as `fit_temperature`.
        temperature: T, once fitted; or give it, to scale with a temperature that is known.
    """

    bounds: tuple[float, float] = (0.05, 20.0)
    solver: str = "bounded"
    temperature: float | None = None

    name = "temperature"

    def __post_init__(self) -> None:
        check_bounds(self.bounds)
        check_solver(self.solver)

    @property
    def keeps_accuracy(self) -> bool:
        """Whether T is positive; the paper's solver can end below 0, which turns the order of the classes round."""
        return self.temperature is None or self.temperature > 0.0

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return one with the temperature of `fit_temperature`, which says what is raised."""
        return replace(self, temperature=fit_temperature(logits, labels, self.bounds, self.solver).temperature)

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return softmax(logits / T), float64 (N, K)."""
        values = fitted_logits(logits, None if self.temperature is None else 0, "temperature scaling")
        assert self.temperature is not None
        if self.temperature < 0.0:
            values = -values
        with np.errstate(over="ignore"):  # a tiny temperature gives -inf, whose exponential is the right 0
            shifted = (values - values.max(axis=1, keepdims=True)) / abs(self.temperature)
        exponentials = np.exp(shifted)
        probabilities: Floats = exponentials / exponentials.sum(axis=1)[:, None]
        return probabilities

    def facts(self) -> dict[str, Any]:
        """Return bounds, solver and T."""
        return {"bounds": list(self.bounds), "solver": self.solver, "temperature": self.temperature}

    def save(self, folder: Path | str) -> None:
        """Write it into a folder."""
        check_fitted(self.temperature is not None, "temperature scaling")
        write_calibrator(folder, self.name, self.facts(), {"temperature": np.array([self.temperature], np.float64)})

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote."""
        low, high = facts["bounds"]
        return cls((low, high), facts["solver"], float(tensors["temperature"][0]))
