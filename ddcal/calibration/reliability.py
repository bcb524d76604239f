"""Reliability diagrams of several calibrations side by side (PAPER.md, what the supplement shows)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddcal.calibration.metrics import ReliabilityBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 100
PANEL_WIDTH, HEIGHT = 2.5, 3.9
"""Inches of one panel with its margin, and of the figure: four panels are 1000 px wide."""
ACCURACY_COLOUR, SHARE_COLOUR, LINE_COLOUR = "#3b6ea8", "#9aa5b1", "#444444"
OVER_COLOUR, UNDER_COLOUR = "#f0a8a3", "#f2c14e"


def plot_reliability(rows: Mapping[str, ReliabilityBins], title: str = "") -> Figure:
    """Return a figure with one reliability diagram for each calibration, side by side.

    Above, bars show the accuracy of each bin, and a shaded bar the gap to the bin's mean confidence: over-confident
    above the accuracy, under-confident on top of it. The dashed diagonal is perfect calibration. Below, the share of
    the images in each bin, on one scale for all panels. The ECE, in percent, stands in each panel's title.

    Args:
        rows: Name of a calibration (raw, ts_train, mts, ts_val …) → its bins, in the order of the panels.
        title: Written above all panels; nothing where empty.

    Raises:
        ValueError: ``rows`` is empty.
    """
    if not rows:
        raise ValueError("rows is empty; give the bins of at least one calibration")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = PANEL_WIDTH * max(len(rows), 1.6)
    figure = Figure(figsize=(width, HEIGHT), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)  # the object API: no pyplot, no global state
    axes = figure.subplots(2, len(rows), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1))
    # Margins by hand, in inches: the automatic layouts double the time of a figure.
    top = HEIGHT - (0.85 if title else 0.55)
    figure.subplots_adjust(0.85 / width, 0.5 / HEIGHT, 1 - 0.15 / width, top / HEIGHT, wspace=0.12, hspace=0.14)
    tallest = max(float((bins.counts / bins.counts.sum()).max()) for bins in rows.values())
    for column, (name, bins) in enumerate(rows.items()):
        _draw_accuracy(axes[0, column], bins)
        _draw_shares(axes[1, column], bins, math.ceil(10 * tallest) / 10)
        axes[0, column].set_title(f"{name}\nECE {100 * bins.ece:.1f} %", fontsize=11)
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("images")
    figure.align_ylabels()
    axes[0, 0].legend(
        loc="upper left", fontsize=8, framealpha=0.8, edgecolor="none", handlelength=1.4, borderaxespad=0.2
    )
    if title:
        figure.suptitle(title, fontsize=12, y=1 - 0.08 / HEIGHT, verticalalignment="top")
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write ``figure`` as a PNG at 100 dots per inch and return its path; equal figures give equal bytes.

    The file carries no version and no date. Folders are made as needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path


def _draw_accuracy(axis: Axes, bins: ReliabilityBins) -> None:
    count = len(bins.counts)
    left = np.arange(count) / count
    gap = np.nan_to_num(bins.confidence - bins.accuracy)
    layers = (
        ("accuracy", ACCURACY_COLOUR, bins.counts > 0, bins.accuracy, 0.0 * gap),
        ("over-confident", OVER_COLOUR, gap > 0, gap, bins.accuracy),
        ("under-confident", UNDER_COLOUR, gap < 0, -gap, bins.confidence),
    )
    for label, colour, shown, height, bottom in layers:
        axis.bar(
            left[shown],
            height[shown],
            bottom=bottom[shown],
            width=1.0 / count,
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=0.5,
        )
        axis.plot([], [], color=colour, linewidth=6, label=label)  # its entry in the legend, also where none is shown
    axis.plot([0, 1], [0, 1], color=LINE_COLOUR, linestyle="--", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    axis.set_axisbelow(True)


def _draw_shares(axis: Axes, bins: ReliabilityBins, top: float) -> None:
    count = len(bins.counts)
    shares = bins.counts / bins.counts.sum()
    axis.bar(np.arange(count) / count, shares, width=1.0 / count, align="edge", color=SHARE_COLOUR, edgecolor="white")
    axis.set(ylim=(0, top), xlabel="confidence")
    axis.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    axis.set_yticks((0, top), ("0 %", f"{100 * top:.0f} %"))
