"""Temperature scaling: one number T that divides all logits (Guo et al. 2017, section 4.2; method.md, MTS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ddcal.calibration.checks import ArrayLike, Targets, check_matrix, check_targets
from ddcal.calibration.metrics.scores import negative_log_likelihood
from ddcal.calibration.optimum import optimal_temperature

SOLVERS = ("bounded", "paper_lbfgs")
"""The solvers of `fit_temperature`: the optimum within bounds, or the paper's optimiser as it stands."""


class CalibrationError(ValueError):
    """A solver ended without a usable temperature."""


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature and what is needed to judge it.

    Attributes:
        temperature: T; calibrated probabilities are softmax(logits / T). Negative only with "paper_lbfgs".
        nll: Mean negative log-likelihood of the fitted data at T, in nats.
        at_bound: Whether T equals one of the bounds: the data would have it outside, or do not determine it. Always
            False with "paper_lbfgs", which knows no bounds.
        draws: The temperature of each mask draw on its own (masked temperature scaling); empty otherwise.
        masked_accuracy: Accuracy on the masked images, pooled over draws; None without masks.
        solver: The solver that found T.
    """

    temperature: float
    nll: float
    at_bound: bool
    draws: tuple[float, ...] = ()
    masked_accuracy: float | None = None
    solver: str = "bounded"


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    bounds: tuple[float, float] = (0.05, 20.0),
    solver: str = "bounded",
) -> TemperatureFit:
    """Return the temperature that minimises the negative log-likelihood of ``labels`` under softmax(logits / T).

    "bounded" finds the optimum within ``bounds`` to near machine precision: the likelihood is convex in 1/T, so it is
    the root of a monotone derivative or a bound (`ddcal.calibration.optimum`). Data that prefer no temperature (the
    logits of each row all equal, or a single class) give T = 1, moved into the bounds.

    "paper_lbfgs" is the authors' optimiser (method.md, MTS): LBFGS from T = 1.5, learning rate 0.01, 50 iterations, no
    line search, no bounds. Steps of 1 % stop about 39 % of the way to the optimum; far from it, T can turn negative.

    Neither draws random numbers nor changes the autograd mode.

    Args:
        logits: (N, K) floats, torch or numpy; computed in float64.
        labels: (N,) integers in 0..K-1; or soft labels q, probabilities (N, K): what is minimised is then the
            cross-entropy, the mean of -sum_k q_k log softmax(logits / T)_k, convex in 1/T too. One-hot is classes.
        bounds: Lowest and highest temperature, 0 < low < high; "paper_lbfgs" ignores them.
        solver: "bounded" or "paper_lbfgs".

    Raises:
        ValueError: Invalid logits or labels (as `ddcal.calibration.score`), bounds or solver.
        CalibrationError: "paper_lbfgs" ended at a temperature that is zero or not finite.
    """
    scores = check_matrix(logits)
    classes = check_targets(labels, scores.shape)
    low, high = check_bounds(bounds)
    check_solver(solver)
    if solver == "paper_lbfgs":
        temperature, at_bound = _paper_lbfgs(scores, classes), False
    else:
        temperature = optimal_temperature(scores, classes, low, high)
        at_bound = temperature in (low, high)
    nll = negative_log_likelihood(scores, classes, temperature)
    return TemperatureFit(temperature=temperature, nll=nll, at_bound=at_bound, solver=solver)


def check_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return ``bounds`` as two finite floats with 0 < low < high, or raise ValueError."""
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"bounds is {bounds!r}; it must be a pair of numbers (low, high)") from None
    if not (0.0 < low < high < math.inf):
        raise ValueError(f"bounds is {bounds!r}; it must be finite with 0 < low < high")
    return low, high


def check_solver(solver: str) -> None:
    """Raise ValueError unless ``solver`` is one of `SOLVERS`."""
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; it must be one of {', '.join(SOLVERS)}")


def _paper_lbfgs(scores: npt.NDArray[np.floating], classes: Targets) -> float:
    # Callers may be under no_grad or inference_mode; both come back as they were.
    with torch.inference_mode(False), torch.enable_grad():
        logits, labels = torch.from_numpy(scores.astype(np.float64)), torch.from_numpy(classes.copy())
        temperature = torch.full((1,), 1.5, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([temperature], lr=1e-2, max_iter=50)

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits / temperature, labels)
            loss.backward()
            return loss

        optimiser.step(closure)
        value = float(temperature.detach())
    if not math.isfinite(value) or value == 0.0:
        raise CalibrationError(f"solver 'paper_lbfgs' ended at temperature {value}; use solver 'bounded'")
    return value
