"""What the pictures of studies have in common: colours, labels, ticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddcal.config import StudyConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
SKY, PURPLE, YELLOW, GREY, BLACK = "#56b4e9", "#cc79a7", "#f0e442", "#999999", "#000000"
"""The palette of Okabe and Ito (2008), which colour-blind people tell apart, and a grey."""

SERIES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, BLACK)


def objective_label(study: StudyConfig, objective: str) -> str:
    """Return an axis label that says which direction is better."""
    return f"{objective} ({'lower' if study.objectives[objective] == 'min' else 'higher'} is better)"


def trial_ticks(axes: Axes) -> None:
    """Put ticks at whole trial numbers alone, and half a trial of room at both ends."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.5), max(high, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def label_points(
    axes: Axes,
    labels: Sequence[tuple[tuple[float, float], str]],
    points: Sequence[tuple[float, float]],
    size: float = 9,
) -> None:
    """Write a label beside each of some points, of eight places the first where it covers no point and no other label.

    Where there is none, the label is left out: the table beside the picture has it. The layout must be final.

    Args:
        axes: The axes, their limits set.
        labels: Points, in the axes' values, with their labels.
        points: All points, none of which is covered.
        size: Of the letters, in points.
    """
    if not labels:
        return
    unit = axes.figure.dpi / 72.0 * size  # pixels of the font's height
    near = 0.35 * unit
    everything = axes.transData.transform([*points, *(point for point, _ in labels)])
    taken: list[tuple[float, ...]] = [(x - near, y - near, x + near, y + near) for x, y in everything]
    frame = axes.get_window_extent()
    for point, label in labels:
        (x, y), width, height, gap = axes.transData.transform(point), 0.62 * unit * len(label), unit, 0.8 * unit
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            left = x + across * gap - (0.0, width / 2, width)[(1, 0, -1).index(across)]
            low = y + up * gap - (0.0, height / 2, height)[(1, 0, -1).index(up)]
            box = (left, low, left + width, low + height)
            inside = frame.x0 < box[0] and box[2] < frame.x1 and frame.y0 < box[1] and box[3] < frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                right, top = axes.transAxes.inverted().transform((left + width / 2, low + height / 2))
                axes.text(
                    right, top, label, transform=axes.transAxes, ha="center", va="center", fontsize=size,
                    zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
                )  # fmt: skip
                break


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def whole_file_name(metric: str) -> str:
    """Return a metric's name as a part of a file's name: ``val/ece`` becomes ``val_ece``."""
    return metric.replace("/", "_")
