"""What the pictures of studies have in common: colours, labels, ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddcal.config import StudyConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY, BLUE, RED, GREEN, ORANGE = "#a8a8a8", "#3b6ea8", "#d1495b", "#3a7d44", "#e08e1b"
SERIES = (BLUE, RED, GREEN, ORANGE, "#7b4fa3", "#555555")


def objective_label(study: StudyConfig, objective: str) -> str:
    """Return an axis label that says which direction is better."""
    return f"{objective} ({'lower' if study.objectives[objective] == 'min' else 'higher'} is better)"


def trial_ticks(axes: Axes) -> None:
    """Put ticks at whole trial numbers alone, and half a trial of room at both ends."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.5), max(high, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def whole_file_name(metric: str) -> str:
    """Return a metric's name as a part of a file's name: ``val/ece`` becomes ``val_ece``."""
    return metric.replace("/", "_")
