"""What the figures and tables of the paper have in common: names, colours, and the words at reduced scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.analysis.style import BLUE, GREEN, GREY, ORANGE, RED

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

LABELS = {
    "ts_train": "TS, distilled images",
    "ts_holdout": "TS, 10 % held out",
    "ts_val": "TS, real val",
    "mts": "MTS",
    "mdt": "MDT",
    "cross_entropy": "cross-entropy",
    "label_smoothing": "label smoothing",
    "focal": "focal loss",
    "noise_floor": "noise floor",
}
"""Names of methods as figures write them; any other name is written as it is."""

FIXED = {
    "raw": (BLACK, "o"),
    "cross_entropy": (BLACK, "o"),
    "ts_train": (BLUE, "s"),
    "ts_holdout": (TEAL, "P"),
    "ts_val": (GREEN, "D"),
    "mts": (RED, "*"),
    "mixup": (ORANGE, "^"),
    "label_smoothing": (PURPLE, "v"),
    "focal": (BROWN, "X"),
    "noise_floor": (GREY, "."),
}
"""Methods that have the same colour and marker in every figure."""

OTHERS = ((PINK, "h"), (OLIVE, "p"), ("#1f9ed1", "<"), ("#c05a00", ">"), ("#5c5cd6", "8"), ("#6b8f23", "d"))


@dataclass(frozen=True)
class Look:
    """Colour and marker of a line."""

    colour: str
    marker: str


def method_label(method: str) -> str:
    """Return a method's name as figures write it."""
    return LABELS.get(method, method)


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """Return each method's look: its own where it has one, else one by the order in which it comes."""
    looks: dict[str, Look] = {}
    others = 0
    for method in dict.fromkeys(methods):
        if method in FIXED:
            looks[method] = Look(*FIXED[method])
        else:
            looks[method] = Look(*OTHERS[others % len(OTHERS)])
            others += 1
    return looks


def headline(figure: Figure, title: str, reduced: bool) -> None:
    """Write a figure's title, with the words of reduced scale below it."""
    lines = [line for line in (title, f"({REDUCED_NOTE})" if reduced else "") if line]
    if lines:
        figure.suptitle("\n".join(lines), fontsize=11)


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
