"""The calibrations: what each fits on, and which real labels it may see (method.md, Names of the calibrations)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

CalibrationMethod = Literal[
    "none",
    "ts_train",
    "ts_holdout",
    "ts_val",
    "mts",
    "ts_cv",
    "mts_distilled",
    "vs_val",
    "ets_val",
    "isotonic_val",
    "histogram_val",
]

TRAIN_BOUNDS = (1.0, 20.0)
"""Temperatures of fits on images that the network was trained on: a converged network would be sharpened else."""
HELD_OUT_BOUNDS = (0.05, 20.0)
"""Temperatures of fits on images that the network was not trained on."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration is.

    Attributes:
        title: What it is called in tables.
        fits_on: Which images its parameters are fitted on.
        real_labels: Whether these are real images of ``val`` with their labels.
        bounds: The lowest and highest temperature where the config gives none; None where there is no temperature.
        temperature_alone: Whether one temperature is all there is to it, so that ``calibrate.solver`` applies.
        keeps_accuracy: Whether the order of the classes is that of the logits, for every image.
    """

    title: str
    fits_on: str
    real_labels: bool = False
    bounds: tuple[float, float] | None = HELD_OUT_BOUNDS
    temperature_alone: bool = True
    keeps_accuracy: bool = True


CALIBRATIONS: dict[str, Calibration] = {
    "none": Calibration("raw", "nothing", bounds=None, temperature_alone=False),
    "ts_train": Calibration("TS on the training images", "the distilled images", bounds=TRAIN_BOUNDS),
    "ts_holdout": Calibration("TS on held-out distilled images", "distilled images held out of training"),
    "ts_cv": Calibration("cross-validated TS", "the distilled images, each by a network trained without it"),
    "mts": Calibration("MTS", "masked distilled images", bounds=TRAIN_BOUNDS),
    "mts_distilled": Calibration("MTS, ratio from distilled images", "masked distilled images", bounds=TRAIN_BOUNDS),
    "ts_val": Calibration("TS on val", "val", True),
    "vs_val": Calibration("vector scaling on val", "val", True, None, False, False),
    "ets_val": Calibration("ensemble TS on val", "val", True, temperature_alone=False),
    "isotonic_val": Calibration("isotonic regression on val", "val", True, None, False, False),
    "histogram_val": Calibration("histogram binning on val", "val", True, None, False, False),
}
"""Every ``calibrate.method``."""

VAL_METHODS = tuple(method for method, calibration in CALIBRATIONS.items() if calibration.real_labels)
"""Methods that fit on ``val``."""
FOLD_METHODS = ("ts_cv", "mts_distilled")
"""Methods that need networks trained on a part of the distilled images each: the ``folds`` stage."""
MASK_METHODS = ("mts", "mts_distilled")
"""Methods that mask images."""


def default_bounds(method: str, *, full_data: bool = False) -> tuple[float, float]:
    """Return the temperature bounds of a calibration method where the config gives none (method.md, MTS).

    Args:
        method: As ``calibrate.method``.
        full_data: Whether the network was trained on all real images: its MTS masks ``val``, which it has not seen.
    """
    if method == "mts" and full_data:
        return HELD_OUT_BOUNDS
    return CALIBRATIONS[method].bounds or HELD_OUT_BOUNDS


def real_labels_used(method: str, val_images: int, *, full_data: bool = False, searched: Collection[str] = ()) -> int:
    """Return how many real labelled images a calibration used, beyond those that the network was trained on.

    Args:
        method: As ``calibrate.method``.
        val_images: The size of ``val``.
        full_data: Whether the network was trained on all real images: its MTS masks ``val``.
        searched: Dotted names that were searched, and so selected on ``val``: with one of ``calibrate.`` among them
            a method that sees no real label itself is tuned on ``val``.

    Returns:
        0 or ``val_images``.

    Raises:
        ValueError: if there is no such method.
    """
    if method not in CALIBRATIONS:
        raise ValueError(f"calibrate.method is {method!r}; it must be one of {', '.join(CALIBRATIONS)}")
    fitted = CALIBRATIONS[method].real_labels or (method == "mts" and full_data)
    return val_images if fitted or any(name.startswith("calibrate.") for name in searched) else 0


def folds_within(folds: int, images_per_class: int) -> int:
    """Return how many folds there are: never more than images of a class, as every fold holds one of each at least."""
    return min(folds, images_per_class)
