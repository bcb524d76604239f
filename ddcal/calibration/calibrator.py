"""The one interface of everything that turns logits into calibrated probabilities, and how it is kept on disk.

A saved calibrator is two files of a folder: ``calibrator.json`` (its name, settings and what is told of the fit) and
``calibrator.safetensors`` (its parameters, float64).
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from ddcal.calibration.checks import ArrayLike, Floats, check_logits
from ddcal.config.calibrations import CALIBRATIONS
from ddcal.untrusted import read_json

DESCRIPTION = "calibrator.json"
PARAMETERS = "calibrator.safetensors"
FORMAT_VERSION = 1

Tensors = dict[str, npt.NDArray[Any]]


class Calibrator(Protocol):
    """Calibrated probabilities from logits; what it is set to and what was fitted never change afterwards."""

    @property
    def name(self) -> str:
        """What kind it is: what its file says, and its row of `ddcal.config.calibrations` brings back."""

    @property
    def keeps_accuracy(self) -> bool:
        """Whether the class with the largest probability is always that with the largest logit."""

    def fit(self, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Return a fitted one with the same settings.

        Args:
            logits: (N, K) floats.
            labels: (N,) integers in 0..K-1.

        Raises:
            ValueError: Invalid logits or labels, as `ddcal.calibration.score`.
        """

    def probabilities(self, logits: ArrayLike) -> Floats:
        """Return calibrated probabilities, float64 (N, K) whose rows sum to 1.

        Raises:
            ValueError: if it was not fitted, or for another number of classes; NaN or infinite logits.
        """

    def facts(self) -> dict[str, Any]:
        """Return settings and a few numbers on the fit, as JSON values."""

    def save(self, folder: Path | str) -> None:
        """Write it into a folder, which is created if missing."""

    @classmethod
    def from_saved(cls, facts: dict[str, Any], tensors: Tensors) -> Self:
        """Return what `save` wrote with these facts and parameters."""


def shipped() -> dict[str, Any]:
    """Return the name of each of ddcal's calibrators → its class."""
    places = [one.calibrator for one in CALIBRATIONS.values() if one.calibrator]
    kinds = [
        getattr(import_module(place.partition(":")[0]), place.partition(":")[2])
        for place in (f"{__package__}.temperature_scaling:TemperatureScaling", *places)
    ]
    return {kind.name: kind for kind in kinds}


def load_calibrator(folder: Path | str, kind: Any = None) -> Calibrator:
    """Return the calibrator that a folder holds.

    Args:
        folder: What `Calibrator.save` wrote.
        kind: The class of a user's own calibrator; left out, it is one of ddcal's. A file never says what is imported.

    Raises:
        ValueError: if the folder holds none, or one that this ddcal does not know.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    try:
        description = read_json(folder / DESCRIPTION, links=True)
        name, version, facts = (description[field] for field in ("name", "format_version", "facts"))
        tensors = load_file(folder / PARAMETERS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} is not a calibrator's folder: {type(error).__name__}: {error}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{folder / DESCRIPTION}: format_version is {version}, this ddcal reads {FORMAT_VERSION}")
    known = shipped() if kind is None else {kind.name: kind}
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{folder / DESCRIPTION}: name is {name!r}; it must be one of {', '.join(known)}")
    try:
        loaded: Calibrator = known[name].from_saved(facts, tensors)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{folder} is not a calibrator's folder: {type(error).__name__}: {error}") from error
    return loaded


def write_calibrator(folder: Path | str, name: str, facts: dict[str, Any], tensors: Tensors) -> None:
    """Write the two files of a calibrator."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {"format_version": FORMAT_VERSION, "name": name, "facts": facts}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / PARAMETERS)


def check_fitted(fitted: bool, kind: str) -> None:
    """Raise ValueError unless a calibrator was fitted."""
    if not fitted:
        raise ValueError(f"{kind} has no parameters yet: call fit(logits, labels) first, and use what it returns")


def fitted_logits(logits: ArrayLike, classes: int | None, kind: str) -> Floats:
    """Return `check_logits` for a calibrator that was fitted on so many classes (0: any number of them).

    Raises:
        ValueError: if it was not fitted (None), or the logits have another number of classes.
    """
    check_fitted(classes is not None, kind)
    values = check_logits(logits)
    if classes not in (0, values.shape[1]):
        raise ValueError(f"logits has {values.shape[1]} classes; this {kind} was fitted on {classes}")
    return values


def softmax(scores: Floats) -> Floats:
    """Return the softmax of each row, float64 (N, K)."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    total: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return total


def one_vs_rest_limits(images: int) -> tuple[float, float]:
    """Return the lowest and highest probability that so many images can speak for: 1/(N + 2) and (N + 1)/(N + 2).

    Calibrators that count would answer 0 or 1 where no image speaks against it, and a single one would make the
    likelihood 0. These limits are Laplace's estimates for "none of N" and "all of N".
    """
    return 1.0 / (images + 2), (images + 1) / (images + 2)


def normalised(scores: Floats) -> Floats:
    """Return each row of positive one-vs-rest probabilities over its sum (Zadrozny & Elkan 2002, section 4)."""
    shares: Floats = scores / scores.sum(axis=1, keepdims=True)
    return shares
