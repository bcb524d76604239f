"""The pictures of a scoreboard: accuracy against calibration error, and soft labels less hard ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddcal.analysis.labels import COLOURS, headline
from ddcal.pictures import literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>hd"


@dataclass(frozen=True)
class Point:
    """A mean with its interval; the ends are the mean itself where there is none.

    Attributes:
        mean: The mean.
        low: The lower end.
        high: The upper end.
        told: Of a difference, whether it has seeds enough for a test and its interval does not hold 0.
    """

    mean: float
    low: float
    high: float
    told: bool = False


@dataclass(frozen=True)
class SetPoints:
    """A set in the plane of accuracy and error.

    Attributes:
        title: What people read.
        hard: Its (accuracy, error) under hard labels, in percent; None where it was not run.
        soft: The same under soft labels.
    """

    title: str
    hard: tuple[Point, Point] | None
    soft: tuple[Point, Point] | None


def plot_plane(panels: Sequence[tuple[str, Sequence[SetPoints]]], *, title: str, reduced: bool) -> Figure:
    """Draw accuracy against ECE, a panel a calibration; a line leads from a set's hard labels to its soft ones.

    Args:
        panels: The title of each, and its sets.
        title: Above.
        reduced: Whether the scale is not the published one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(panels), 5.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for place, (name, sets) in zip(axes, panels, strict=True):
        for index, one in enumerate(sets):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            if one.hard is not None and one.soft is not None:
                ends = [(each[0].mean, each[1].mean) for each in (one.hard, one.soft)]
                place.plot(*zip(*ends, strict=True), color=colour, lw=0.8, alpha=0.6)
            for each, filled in ((one.hard, True), (one.soft, False)):
                if each is not None:
                    _cross(place, *each, colour, marker, filled)
        place.set_title(literal(name), fontsize=10)
        place.set_xlabel("accuracy on test, % (higher is better)")
        place.grid(alpha=0.3)
    _frame(axes, [each for _, sets in panels for one in sets for each in (one.hard, one.soft) if each is not None])
    axes[0].set_ylabel("ECE on test, % (lower is better)")
    for index, one in enumerate(panels[0][1]):
        axes[0].plot([], [], color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], ls="",
                     label=literal(one.title))  # fmt: skip
    axes[0].plot([], [], color="black", marker="o", ls="", label="hard labels")
    axes[0].plot([], [], color="black", marker="o", ls="", mfc="white", label="soft labels")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    headline(figure, title, reduced)
    return figure


def _frame(axes: Sequence[Axes], points: Sequence[tuple[Point, Point]]) -> None:
    """Give all panels the limits of the means: an interval of few seeds may be many times as wide as all of them."""
    if points:
        xs, top = [x.mean for x, _ in points], max(y.mean for _, y in points)
        margin = 0.12 * max(1.0, max(xs) - min(xs))
        for place in axes:
            place.set_xlim(min(xs) - margin, max(xs) + margin)
            place.set_ylim(0.0, 1.15 * max(1.0, top))


def _cross(axes: Axes, x: Point, y: Point, colour: str, marker: str, filled: bool) -> None:
    axes.errorbar(
        x.mean, y.mean, xerr=[[x.mean - x.low], [x.high - x.mean]], yerr=[[y.mean - y.low], [y.high - y.mean]],
        color=colour, marker=marker, mfc=colour if filled else "white", ms=7, elinewidth=0.7, ls="",
    )  # fmt: skip


def plot_paired(
    titles: Sequence[str], columns: Sequence[tuple[str, Sequence[Point | None]]], *, title: str, reduced: bool
) -> Figure:
    """Draw differences of soft labels from hard ones, a panel a number and a row a set; 0 is a line.

    Args:
        titles: Of the sets, from top to bottom.
        columns: The title of each panel, and a difference a set, in points.
        title: Above.
        reduced: Whether the scale is not the published one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.1 + 2.1 * len(columns), 1.6 + 0.38 * len(titles)), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    rows = range(len(titles))
    for place, (name, points) in zip(axes, columns, strict=True):
        place.axvline(0.0, color="black", lw=0.8)
        for row, point in zip(rows, points, strict=True):
            if point is not None:
                place.errorbar(
                    point.mean, row, xerr=[[point.mean - point.low], [point.high - point.mean]],
                    color=COLOURS[row % len(COLOURS)], marker="o", ms=6, lw=1.4, ls="",
                    mfc=None if point.told else "white",
                )  # fmt: skip
        place.set_title(literal(name), fontsize=9)
        place.grid(axis="x", alpha=0.3)
        place.margins(x=0.15)
    axes[0].set_yticks(list(rows), [literal(one) for one in titles])
    axes[0].set_ylim(len(titles) - 0.5, -0.5)
    figure.supxlabel("soft less hard labels on the same images, points", fontsize=10)
    headline(figure, title, reduced)
    return figure
