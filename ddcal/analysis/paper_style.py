"""What the figures and tables of the paper have in common: names, colours, and the words at reduced scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.analysis.style import BLUE, GREEN, GREY, ORANGE, RED
from ddcal.pictures import literal

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

REDUCED_NOTE = "reduced scale: not comparable with the published column"
"""What every table and figure says that was not made at the paper's scale."""

MAX_WIDTH = 13.5
"""Inches: no figure is wider than 1350 px."""

PURPLE, BROWN, TEAL, PINK, OLIVE, BLACK = "#7b4fa3", "#8c564b", "#2a9d9d", "#d77fb3", "#9a8f1f", "#333333"

COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, BROWN, TEAL, PINK, OLIVE, BLACK)
"""Ten colours that can be told apart: classes, backbones, and methods without a colour of their own."""

METHODS = {
    "raw": ("raw", BLACK, "o"),
    "cross_entropy": ("cross-entropy", BLACK, "o"),
    "mixup": ("mixup", ORANGE, "^"),
    "label_smoothing": ("label smoothing", PURPLE, "v"),
    "focal": ("focal loss", BROWN, "X"),
    "mdt": ("MDT", PINK, "h"),
    "ts_train": ("TS, distilled images", BLUE, "s"),
    "ts_holdout": ("TS, 10 % held out", TEAL, "P"),
    "ts_cv": ("TS, cross-validated", OLIVE, "p"),
    "ts_val": ("TS, real val", GREEN, "D"),
    "mts": ("MTS", RED, "*"),
    "mts_distilled": ("MTS, ratio from distilled images", "#1f9ed1", "<"),
    "mts_val_tuned": ("MTS, ratio tuned on val", "#c05a00", ">"),
    "noise_floor": ("noise floor", GREY, "."),
}
"""Methods that have the same label, colour and marker in every figure; any other is written as it is."""

OTHERS = (("#5c5cd6", "d"), ("#6b8f23", "H"), ("#b04a7a", "8"), ("#4a6a6a", "<"))
"""Colours and markers of other methods."""


@dataclass(frozen=True)
class Look:
    """Colour and marker of a line."""

    colour: str
    marker: str


def method_label(method: str) -> str:
    """Return a method's name as figures write it."""
    return METHODS[method][0] if method in METHODS else method


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return each method's look: its own where it has one, else one by the order in which it comes."""
    names = list(dict.fromkeys(methods))
    others = [name for name in names if name not in METHODS]
    looks = {name: Look(*OTHERS[place % len(OTHERS)]) for place, name in enumerate(others)}
    return {name: Look(*METHODS[name][1:]) if name in METHODS else looks[name] for name in names}


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
