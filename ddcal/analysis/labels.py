"""What figures and tables have in common: labels of methods, colours, and the words at reduced scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.analysis.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, YELLOW
from ddcal.config.calibrations import CALIBRATIONS
from ddcal.pictures import literal

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

RAW = "raw"
"""A network without calibration, which as a trial's own is the method ``none``."""

REDUCED_NOTE = "reduced scale: not comparable with published numbers"
"""What every table and figure says that was not made at the paper's scale."""

MAX_WIDTH = 13.5
"""Inches: no figure is wider than 1350 px."""

WINE = "#882255"

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY, WINE, YELLOW)
"""Ten colours that can be told apart: classes, backbones, and methods without a colour of their own."""

OTHER_LABELS = {
    "cross_entropy": "cross-entropy",
    "mixup": "mixup",
    "label_smoothing": "label smoothing",
    "focal": "focal loss",
    "kl": "distillation (KL)",
    "mdt": "MDT",
    "mts_val_tuned": "MTS, ratio tuned on val",
    "noise_floor": "noise floor",
}
"""What is no calibration of a trial; a calibration has its title in `ddcal.config.calibrations`."""

LOOKS = {
    "raw": (BLACK, "o"),
    "cross_entropy": (BLACK, "o"),
    "mixup": (ORANGE, "^"),
    "label_smoothing": (SKY, "v"),
    "focal": (GREEN, "X"),
    "mdt": (PURPLE, "h"),
    "ts_train": (BLUE, "s"),
    "ts_holdout": (SKY, "P"),
    "ts_cv": (ORANGE, "p"),
    "ts_val": (GREEN, "D"),
    "mts": (VERMILLION, "*"),
    "mts_distilled": (PURPLE, "<"),
    "mts_val_tuned": (WINE, ">"),
    "noise_floor": (GREY, "."),
}
"""Methods that have the same colour and marker in every figure; losses and calibrations are never in one."""

OTHERS = (("#5c5cd6", "d"), ("#6b8f23", "H"), ("#b04a7a", "8"), ("#4a6a6a", "<"))
"""Colours and markers of other methods."""


@dataclass(frozen=True)
class Look:
    """Colour and marker of a line."""

    colour: str
    marker: str


def method_label(method: str) -> str:
    """Return a method's name as tables and figures write it; one that nobody knows is written as it is."""
    if method == RAW:
        return CALIBRATIONS["none"].title
    return CALIBRATIONS[method].title if method in CALIBRATIONS else OTHER_LABELS.get(method, method)


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return each method's look: its own where it has one, else one by the order in which it comes."""
    names = list(dict.fromkeys(methods))
    others = [name for name in names if name not in LOOKS]
    looks = {name: Look(*OTHERS[place % len(OTHERS)]) for place, name in enumerate(others)}
    return {name: Look(*LOOKS[name]) if name in LOOKS else looks[name] for name in names}


def headline(figure: Figure, title: str, reduced: bool) -> None:
    """Write a figure's title, with the words of reduced scale below it."""
    lines = [line for line in (title, f"({REDUCED_NOTE})" if reduced else "") if line]
    if lines:
        figure.suptitle(literal("\n".join(lines)), fontsize=11)


def save_frame(frame: pandas.DataFrame, path: str | Path, *, reduced: bool = False) -> Path:
    """Write a figure's or table's numbers as CSV and return the path; folders are made as needed.

    Args:
        frame: Written without its index, numbers to their last digit.
        path: Where to.
        reduced: Add a column ``note`` with the words of reduced scale.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = frame.assign(note=REDUCED_NOTE) if reduced else frame
    written.to_csv(path, index=False, lineterminator="\n")
    return path
