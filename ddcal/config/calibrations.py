"""The calibrations: what each fits on, and which real labels it may see (method.md, Names of the calibrations)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from ddcal.config.base import checked_name
from ddcal.config.components import find_component

TRAIN_BOUNDS = (1.0, 20.0)
"""Temperatures of fits on images that the network was trained on: a converged network would be sharpened else."""
HELD_OUT_BOUNDS = (0.05, 20.0)
"""Temperatures of fits on images that the network was not trained on."""
HISTOGRAM_BINS = 15

Seen = Literal["val", "train", "held", "folds", "masked", "nothing"]


@dataclass(frozen=True)
class Calibration:
    """What a calibration is. A user's own is one of these in a package of theirs (own-components.md).

    Attributes:
        title: What it is called in tables and figures.
        sees: The logits that its parameters are fitted on: of ``val``; of the distilled images that the network was
            trained on (``train``), or of those held out of training (``held``); of each distilled image by a network
            that was trained without it (``folds``); of ``masked`` training images; or of ``nothing``.
        finds_ratio: Whether the ratio of the mask is found from the folds, and not set.
        bounds: The lowest and highest temperature where the config gives none; None where there is no temperature.
        calibrator: Import path ``package.module:NAME`` of the `ddcal.calibration.Calibrator`, where one temperature is
            not all there is to it.
        takes_bounds: Whether that is made with ``calibrate.t_min`` and ``t_max``, as its first argument.
        numbers: How many numbers it keeps for one network, from (classes, images that it was fitted on).
        keeps_accuracy: Whether the order of the classes is that of the logits, for every image.
        version: Of a user's own: raised where numbers change.

    Raises:
        ValueError: for another ``sees``, or what means nothing beside it.
    """

    title: str
    sees: Seen = "val"
    finds_ratio: bool = False
    bounds: tuple[float, float] | None = HELD_OUT_BOUNDS
    calibrator: str = ""
    takes_bounds: bool = False
    numbers: Callable[[int, int], int] = lambda classes, images: (2 * images + 1) * classes
    keeps_accuracy: bool = True
    version: int = 1

    def __post_init__(self) -> None:
        if self.sees not in get_args(Seen):
            raise ValueError(f"sees is {self.sees!r}; it must be one of {', '.join(get_args(Seen))}")
        if self.calibrator and self.sees == "nothing":
            raise ValueError(f"sees is 'nothing', on which {self.calibrator} cannot be fitted")
        if self.finds_ratio and self.sees != "masked":
            raise ValueError(f"finds_ratio is of a mask, but sees is {self.sees!r}: it must be 'masked'")

    @property
    def real_labels(self) -> bool:
        """Whether it fits on real images of ``val`` with their labels."""
        return self.sees == "val"

    @property
    def masks(self) -> bool:
        """Whether it masks images."""
        return self.sees == "masked"

    @property
    def cross_validates(self) -> bool:
        """Whether it needs networks trained on a part of the distilled images each: the ``folds`` stage."""
        return self.sees == "folds" or self.finds_ratio

    @property
    def temperature_alone(self) -> bool:
        """Whether one temperature is all there is to it, so that ``calibrate.solver`` applies."""
        return not self.calibrator and self.sees != "nothing"


_PLACE = "ddcal.calibration"

CALIBRATIONS: dict[str, Calibration] = {
    "none": Calibration("raw", "nothing", bounds=None),
    "ts_train": Calibration("TS, distilled images", "train", bounds=TRAIN_BOUNDS),
    "ts_holdout": Calibration("TS, held-out images", "held"),
    "ts_cv": Calibration("TS, cross-validated", "folds"),
    "mts": Calibration("MTS", "masked", bounds=TRAIN_BOUNDS),
    "mts_distilled": Calibration("MTS, ratio from distilled images", "masked", finds_ratio=True, bounds=TRAIN_BOUNDS),
    "ts_val": Calibration("TS, real val"),
    "vs_val": Calibration(
        "vector scaling, real val",
        bounds=None,
        calibrator=f"{_PLACE}.vector_scaling:VectorScaling",
        numbers=lambda classes, _: 2 * classes,
        keeps_accuracy=False,
    ),
    "svs_val": Calibration(
        "structured vector scaling, real val",
        calibrator=f"{_PLACE}.matrix_scaling:StructuredVectorScaling",
        takes_bounds=True,
        numbers=lambda classes, _: 2 * classes + 1,
        keeps_accuracy=False,
    ),
    "sms_val": Calibration(
        "structured matrix scaling, real val",
        calibrator=f"{_PLACE}.matrix_scaling:StructuredMatrixScaling",
        takes_bounds=True,
        numbers=lambda classes, _: classes * (classes + 1) + 1,
        keeps_accuracy=False,
    ),
    "matrix_val": Calibration(
        "matrix scaling, real val",
        bounds=None,
        calibrator=f"{_PLACE}.matrix_scaling:MatrixScaling",
        numbers=lambda classes, _: classes * (classes + 1),
        keeps_accuracy=False,
    ),
    "dirichlet_val": Calibration(
        "Dirichlet, real val",
        bounds=None,
        calibrator=f"{_PLACE}.dirichlet:DirichletCalibration",
        numbers=lambda classes, _: classes * (classes + 1),
        keeps_accuracy=False,
    ),
    "ets_val": Calibration(
        "ensemble TS, real val",
        calibrator=f"{_PLACE}.ensemble_scaling:EnsembleTemperatureScaling",
        takes_bounds=True,
        numbers=lambda *_: 4,
    ),
    "isotonic_val": Calibration(
        "isotonic, real val",
        bounds=None,
        calibrator=f"{_PLACE}.isotonic:IsotonicCalibration",
        numbers=lambda classes, images: (2 * images + 1) * classes,
        keeps_accuracy=False,
    ),
    "histogram_val": Calibration(
        "histogram, real val",
        bounds=None,
        calibrator=f"{_PLACE}.histogram:HistogramBinning",
        numbers=lambda classes, _: HISTOGRAM_BINS * classes,
        keeps_accuracy=False,
    ),
}
"""Every ``calibrate.method`` of ddcal; a new one with more than a temperature is its file and a row here."""

REFERENCES = ("ts_train", "ts_val")
"""Methods that every trial's own calibration is shown beside."""

RAW = "raw"
"""What networks without calibration are called in tables: a trial's own calibration may be that, too (``none``)."""


def reported(method: str) -> dict[str, str]:
    """Return the calibrations that an evaluation has numbers of → what these are called by after the split.

    The trial's own numbers have no name there. It stands once: where it is raw or one of `REFERENCES`, in that one's
    place.

    Args:
        method: Of the trial, as ``calibrate.method``.
    """
    own = RAW if method == "none" else method
    first, last = REFERENCES
    names = (RAW, first, *(() if own in (RAW, *REFERENCES) else (own,)), last)
    return {name: "" if name == own else f"{name}/" for name in names}


def calibration(method: str) -> Calibration:
    """Return what a calibration is.

    Args:
        method: As ``calibrate.method``: one of `CALIBRATIONS`, or a user's own (`ddcal.config.components`).

    Raises:
        ddcal.config.components.ComponentError: if there is none, or the package of a user's own is missing.
    """
    return find_component("calibrator", method, CALIBRATIONS, Calibration)


if TYPE_CHECKING:
    CalibrationMethod = str
else:
    CalibrationMethod = Annotated[Literal[tuple(CALIBRATIONS)] | str, checked_name(CALIBRATIONS, calibration)]


def default_bounds(method: str, *, full_data: bool = False) -> tuple[float, float]:
    """Return the temperature bounds of a calibration method where the config gives none (method.md, MTS).

    Args:
        method: As ``calibrate.method``.
        full_data: Whether the network was trained on all real images: its MTS masks ``val``, which it has not seen.
    """
    found = calibration(method)
    if found.masks and full_data:
        return HELD_OUT_BOUNDS
    return found.bounds or HELD_OUT_BOUNDS


def bounds_problems(method: str, t_min: float | None, t_max: float | None, *, full_data: bool = False) -> list[str]:
    """Return that the temperature bounds in force are no range, if they are none.

    Args:
        method: As ``calibrate.method``.
        t_min: As ``calibrate.t_min``; None where it is left out.
        t_max: As ``calibrate.t_max``; None where it is left out.
        full_data: As in `default_bounds`.
    """
    low, high = default_bounds(method, full_data=full_data)
    said = [f"{low:g}, the default of {method!r}", f"{high:g}, the default of {method!r}"]
    if t_min is not None:
        low, said[0] = t_min, f"{t_min:g}"
    if t_max is not None:
        high, said[1] = t_max, f"{t_max:g}"
    return [] if low < high else [f"calibrate.t_min ({said[0]}) must be below calibrate.t_max ({said[1]})"]


def real_labels_used(method: str, val_images: int, *, full_data: bool = False, searched: Collection[str] = ()) -> int:
    """Return how many real labelled images a calibration used, beyond those that the network was trained on.

    Args:
        method: As ``calibrate.method``.
        val_images: The size of ``val``.
        full_data: Whether the network was trained on all real images: its MTS masks ``val``.
        searched: Dotted names that were searched, and so selected on ``val``: with one of ``calibrate.`` among them,
            or ``labels.temperature``, a method that sees no real label itself is tuned on ``val``.

    Returns:
        0 or ``val_images``.

    Raises:
        ddcal.config.components.ComponentError: if there is no such method.
    """
    found = calibration(method)
    fitted = found.real_labels or (found.masks and full_data)
    tuned = any(name.startswith("calibrate.") or name == "labels.temperature" for name in searched)
    return val_images if fitted or tuned else 0


def folds_within(folds: int, images_per_class: int) -> int:
    """Return how many folds there are: never more than images of a class, as every fold holds one of each at least."""
    return min(folds, images_per_class)
