"""Axes that one outlier does not ruin: a logarithmic one where values differ by factors, or one that is cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import TYPE_CHECKING, Literal

from ddcal.analysis.figures.style import BLACK
from ddcal.config.metrics import better

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_FACTOR = 8.0
"""From this factor between the largest and the smallest value on, errors are drawn on a logarithmic axis."""

WIDE_FACTOR = 20.0
"""Up to this factor between them a logarithmic axis shows all values: the best one is seen where it is."""

FAR = 3.0
"""Tukey's fences for values that are far out, in spreads between the quartiles beyond them."""

MIN_VALUES = 5
"""Of fewer values none is called an outlier."""

MARGIN = 0.07
"""Room beyond the outermost value that is not cut off, as a part of the axis."""

LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
"""Behind a label: no line goes through it."""


@dataclass(frozen=True)
class Scale:
    """The axis of one metric.

    Attributes:
        log: Whether it is logarithmic.
        low: Where the axis begins, in the metric's values.
        high: Where it ends.
        cut: The values that lie beyond its ends, drawn at the end with a mark.
    """

    log: bool
    low: float
    high: float
    cut: tuple[float, ...] = ()

    def shown(self, value: float) -> float:
        """Return where a value is drawn: itself, or the end of the axis beyond which it lies."""
        return min(max(value, self.low), self.high)

    def place(self, value: float) -> float:
        """Return where a value is drawn, from 0 (the axis' low end) to 1."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, self.shown(value)))
        return (at - low) / (high - low) if high > low else 0.5

    def with_room_below(self, part: float) -> Scale:
        """Return the scale with an axis that begins lower, by a part of its length."""
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        low -= part * (high - low)
        lower = math.exp(low) if self.log else low
        return replace(self, low=lower, cut=tuple(value for value in self.cut if not lower <= value <= self.high))

    def apply(self, axes: Axes, axis: Literal["x", "y"]) -> None:
        """Give an axis this scale and these ends, with plain numbers at its ticks."""
        if axis == "x":
            axes.set_xscale("log" if self.log else "linear")
            axes.set_xlim(self.low, self.high)
        else:
            axes.set_yscale("log" if self.log else "linear")
            axes.set_ylim(self.low, self.high)
        if self.log:
            from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

            one = axes.xaxis if axis == "x" else axes.yaxis
            one.set_major_locator(FixedLocator(self.ticks()))
            one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            one.set_minor_locator(NullLocator())
            one.set_minor_formatter(NullFormatter())

    def ticks(self) -> list[float]:
        """Return a few round values along the axis."""
        if not self.log:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
            step *= next(one for one in (1, 2, 5, 10) if (self.high - self.low) / (one * step) <= 5)
            first = math.ceil(self.low / step - 1e-9)
            return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [s * 10.0**d for d in decades for s in steps if self.low <= s * 10.0**d <= self.high]
            if len(found) <= 7:
                return found
        return found[:: math.ceil(len(found) / 7)]


def mark_cut(
    axes: Axes, points: Sequence[tuple[float, float]], values: Sequence[Sequence[float]], scales: Sequence[Scale]
) -> list[tuple[tuple[float, float], str]]:
    """Mark the points that stand at an axis' end in place of a value beyond it with a triangle that points there.

    Args:
        axes: With one scale (of y) or two (of x and y) that are applied.
        points: Where the points are drawn.
        values: Of each point, a value a scale.
        scales: The scales.

    Returns:
        The marked points, each with its values beyond the axes as a label, for `label_points`.
    """
    marks = (("<", ">"), ("v", "^"))[-len(scales) :]
    labels = []
    for point, each in zip(points, values, strict=True):
        said = []
        for scale, value, (down, up) in zip(scales, each, marks, strict=True):
            if value in scale.cut:
                marker = down if value < scale.low else up
                axes.scatter(*point, marker=marker, s=90, facecolors="none", edgecolors=BLACK, clip_on=False, zorder=3)
                said.append(f"{value:.3g}")
        if said:
            labels.append((point, ", ".join(said)))
    return labels


def scale_of(metric: str, values: Sequence[float]) -> Scale:
    """Return the axis on which all values of a metric can be told from each other.

    Errors (what is better lower) that are above 0 and differ by `LOG_FACTOR` get a logarithmic axis. Values beyond
    `FAR` spreads from the quartiles, on that axis, are cut off if they would take more than half of it, but not from a
    logarithmic axis of at most `WIDE_FACTOR`.
    """
    if not values:
        return Scale(False, 0.0, 1.0)
    log = better(metric) == "min" and min(values) > 0.0 and max(values) / min(values) >= LOG_FACTOR
    on_axis = sorted(math.log(value) if log else value for value in values)
    whole = log and max(values) / min(values) <= WIDE_FACTOR
    low, high = (on_axis[0], on_axis[-1]) if whole else _without_outliers(on_axis)
    room = MARGIN * (high - low) or (0.1 if log else max(abs(low) * 0.05, 1e-3))
    ends = low - room, high + room
    cut = tuple(v for v in values if not ends[0] <= (math.log(v) if log else v) <= ends[1])
    low, high = (math.exp(end) if log else end for end in ends)
    return Scale(log, low, high, cut)


def _without_outliers(ordered: list[float]) -> tuple[float, float]:
    low, high = ordered[0], ordered[-1]
    if len(ordered) < MIN_VALUES:
        return low, high
    first, _, third = quantiles(ordered, n=4, method="inclusive")
    spread = third - first
    inner = [value for value in ordered if first - FAR * spread <= value <= third + FAR * spread]
    return (inner[0], inner[-1]) if spread > 0.0 and high - low > 2.0 * (inner[-1] - inner[0]) else (low, high)
