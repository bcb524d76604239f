"""Reliability diagrams of several calibrations side by side (method.md, ECE)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ddcal.calibration.metrics.binned import ReliabilityBins
from ddcal.pictures import DOTS_PER_INCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Point = tuple[float, float]

PANEL_WIDTH, HEIGHT = 2.5, 4.1
"""Inches of one panel with its margin, and of the figure: four panels are 1000 px wide."""
LEFT, RIGHT, BOTTOM, TOP, TOP_WITH_TITLE = 0.85, 0.15, 0.7, 0.55, 0.85
GAP, GAP_BELOW = 0.25, 0.165
"""Inches around the panels, between two panels, and between a panel's halves."""
ACCURACY_COLOUR, SHARE_COLOUR, LINE_COLOUR = "#0072b2", "#9aa5b1", "#333333"
OVER_COLOUR, UNDER_COLOUR, GRID_COLOUR = "#d55e00", "#f0e442", "#d8d8d8"
"""Blue, vermillion and yellow of Okabe and Ito (2008), which colour-blind people tell apart."""

PALE = 0.3
"""How much of its colour a bin keeps that holds almost no images."""

FEW_SHARE, FEW_IMAGES = 0.01, 10
"""A bin is pale below this share of the images, or this number: its accuracy hardly counts, or is hardly known."""

ENTRY = 1.2
"""Inches of one entry of the legend, which stands in a row below the panels, where it covers nothing."""

LEGEND = (("accuracy", ACCURACY_COLOUR), ("over-confident", OVER_COLOUR), ("under-confident", UNDER_COLOUR))


@dataclass(frozen=True)
class _Box:
    """A rectangle in inches from the figure's lower left corner, in which data runs from 0 to 1 both ways."""

    left: float
    bottom: float
    width: float
    height: float

    def at(self, x: float, y: float) -> Point:
        """Return the place of a point of the data."""
        return self.left + x * self.width, self.bottom + y * self.height

    def bar(self, low: float, high: float, bottom: float, top: float) -> list[Point]:
        """Return the corners of the bar over the data from ``low`` to ``high``."""
        return [self.at(low, bottom), self.at(high, bottom), self.at(high, top), self.at(low, top)]


@dataclass
class _Marks:
    """What is to be drawn, in inches: a few collections of marks cost a tenth of matplotlib's axes with their ticks."""

    bars: list[list[Point]] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    grid: list[list[Point]] = field(default_factory=list)
    diagonals: list[list[Point]] = field(default_factory=list)
    frames: list[list[Point]] = field(default_factory=list)
    words: list[tuple[Point, str, dict[str, Any]]] = field(default_factory=list)

    def bar(self, corners: list[Point], colour: str, pale: bool = False) -> None:
        self.bars.append(corners)
        self.colours.append(_paled(colour) if pale else colour)

    def word(self, place: Point, text: str, across: str, along: str, size: float = 10, turned: float = 0) -> None:
        settings = {"ha": across, "va": along, "fontsize": size, "rotation": turned}
        self.words.append((place, text, settings))

    def ticks_left(self, box: _Box, ticks: Mapping[float, str]) -> None:
        for y, text in ticks.items():
            x, height = box.at(0, y)
            self.frames.append([(x - 0.05, height), (x, height)])
            self.word((x - 0.1, height), text, "right", "center_baseline")

    def ticks_below(self, box: _Box, ticks: Mapping[float, str]) -> None:
        for x, text in ticks.items():
            along, y = box.at(x, 0)
            self.frames.append([(along, y - 0.05), (along, y)])
            if text:
                self.word((along, y - 0.1), text, "center", "top")


def plot_reliability(rows: Mapping[str, ReliabilityBins], title: str = "") -> Figure:
    """Return a figure with one reliability diagram for each calibration, side by side.

    Above, bars show the accuracy of each bin, and a shaded bar the gap to the bin's mean confidence: over-confident
    above the accuracy, under-confident on top of it. Bins with fewer than `FEW_IMAGES` images, or than `FEW_SHARE` of
    them, are pale. The dashed diagonal is perfect calibration. Below, the share of
    the images in each bin, on one scale for all panels. The ECE, in percent, stands in each panel's title.

    The figure has no axes: its marks are collections in inches, because every trial of a study draws one.

    Args:
        rows: Name of a calibration (raw, ts_train, mts, ts_val …) → its bins, in the order of the panels.
        title: Written above all panels; nothing where empty.

    Raises:
        ValueError: ``rows`` is empty.
    """
    if not rows:
        raise ValueError("rows is empty; give the bins of at least one calibration")
    width = PANEL_WIDTH * max(len(rows), 1.6)
    top = HEIGHT - (TOP_WITH_TITLE if title else TOP)
    panel = (width - LEFT - RIGHT - GAP * (len(rows) - 1)) / len(rows)
    low = (top - BOTTOM - GAP_BELOW) / 5
    tallest = max(float((bins.counts / bins.counts.sum()).max()) for bins in rows.values())
    most = math.ceil(10 * tallest) / 10
    marks = _Marks()
    for column, (name, bins) in enumerate(rows.items()):
        left = LEFT + column * (panel + GAP)
        upper, lower = _Box(left, top - 4 * low, panel, 4 * low), _Box(left, BOTTOM, panel, low)
        _accuracy(marks, upper, bins)
        _shares(marks, lower, bins, most)
        marks.word((left + panel / 2, top + 0.08), f"{name}\nECE {100 * bins.ece:.1f} %", "center", "bottom", 11)
        if column == 0:
            marks.ticks_left(upper, {y: f"{y:.2f}" for y in (0, 0.25, 0.5, 0.75, 1)})
            marks.ticks_left(lower, {0: "0 %", 1: f"{100 * most:.0f} %"})
            marks.word((0.22, upper.at(0, 0.5)[1]), "accuracy", "center", "center", turned=90)
            marks.word((0.22, lower.at(0, 0.5)[1]), "images", "center", "center", turned=90)
    if title:
        marks.word((width / 2, HEIGHT - 0.08), title, "center", "top", 12)
    return _draw(marks, width)


def _paled(colour: str) -> str:
    """Return a colour ``#rrggbb`` mixed with white."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(255 - PALE * (255 - part)):02x}" for part in parts)


def _accuracy(marks: _Marks, box: _Box, bins: ReliabilityBins) -> None:
    count, total = len(bins.counts), int(bins.counts.sum())
    for index in np.flatnonzero(bins.counts):
        low, high = index / count, (index + 1) / count
        right, sure = float(bins.accuracy[index]), float(bins.confidence[index])
        pale = bins.counts[index] < max(FEW_IMAGES, FEW_SHARE * total)
        marks.bar(box.bar(low, high, 0, right), ACCURACY_COLOUR, pale)
        if sure > right:
            marks.bar(box.bar(low, high, right, sure), OVER_COLOUR, pale)
        elif sure < right:
            marks.bar(box.bar(low, high, sure, right), UNDER_COLOUR, pale)
    marks.grid += [[box.at(0, y), box.at(1, y)] for y in (0.25, 0.5, 0.75)]
    marks.diagonals.append([box.at(0, 0), box.at(1, 1)])
    marks.frames.append([*box.bar(0, 1, 0, 1), box.at(0, 0)])
    marks.ticks_below(box, {0: "", 0.5: "", 1: ""})


def _shares(marks: _Marks, box: _Box, bins: ReliabilityBins, most: float) -> None:
    count, shares = len(bins.counts), bins.counts / bins.counts.sum() / most
    for index in np.flatnonzero(bins.counts):
        marks.bar(box.bar(index / count, (index + 1) / count, 0, float(shares[index])), SHARE_COLOUR)
    marks.frames.append([*box.bar(0, 1, 0, 1), box.at(0, 0)])
    marks.ticks_below(box, {0: "0", 0.5: "0.5", 1: "1"})
    x, y = box.at(0.5, 0)
    marks.word((x, y - 0.27), "confidence", "center", "top")


def _draw(marks: _Marks, width: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import Collection, LineCollection, PolyCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, HEIGHT), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)  # the object API: no pyplot, no global state
    swatches = [_Box(LEFT + ENTRY * place, 0.1, 0.15, 0.08) for place in range(len(LEGEND))]
    collections: tuple[Collection, ...] = (
        LineCollection(marks.grid, colors=GRID_COLOUR, linewidths=0.4),
        PolyCollection(marks.bars, facecolors=marks.colours, edgecolors="white", linewidths=0.5),
        LineCollection(marks.diagonals, colors=LINE_COLOUR, linewidths=1, linestyles="--"),
        PolyCollection([box.bar(0, 1, 0, 1) for box in swatches], facecolors=[c for _, c in LEGEND]),
        LineCollection(marks.frames, colors="black", linewidths=0.8),
    )
    for order, collection in enumerate(collections):
        collection.set_zorder(order)
        collection.set_transform(figure.dpi_scale_trans)
        figure.add_artist(collection)
    for box, (label, _) in zip(swatches, LEGEND, strict=True):
        marks.word((box.left + 0.24, box.bottom + 0.04), label, "left", "center_baseline", 8)
    for (x, y), text, settings in marks.words:
        figure.text(x, y, text, transform=figure.dpi_scale_trans, zorder=len(collections), **settings)
    return figure
