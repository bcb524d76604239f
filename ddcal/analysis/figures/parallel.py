"""Parallel coordinates: every complete trial as a line over the searched names, coloured by an objective."""

from __future__ import annotations

import itertools
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal.analysis.figures.style import GREY, RED, objective_label
from ddcal.config.study import Domain
from ddcal.pictures import literal, save_figure
from ddcal.study.record.results import StudyResults, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INACTIVE = -0.16
"""Where a line passes a name that is not active in its trial, below the axis."""

SPREAD = 0.035
"""How far trials of one choice are drawn apart, so that their lines can be told from each other."""


def plot_parallel(results: StudyResults, objective: str, path: Path) -> Path:
    """Draw the complete trials with a value of ``objective``, better ones darker, the winner in red; save a PNG.

    Ranges of ``loguniform`` have a logarithmic axis, choices one place each. A line is dashed to and from a name that
    is not active in its trial, and passes it at the place ``inactive``.

    Returns:
        ``path``.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    study = results.study
    names = list(study.space)
    trials = [t for t in results.records if t.outcome == "complete" and (t.metrics or {}).get(objective) is not None]
    values = {trial.number: float((trial.metrics or {})[objective]) for trial in trials}
    low, high = (min(values.values()), max(values.values())) if values else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    norm = Normalize(low, high)
    figure: Figure = Figure(figsize=(max(7.0, 2.2 + 1.5 * len(names)), 5), layout="constrained")
    axes = figure.add_subplot()
    minimise = study.objectives[objective] == "min"
    colours = ScalarMappable(norm, "viridis" if minimise else "viridis_r")  # dark is good
    best = results.best

    def draw(trial: Trial, colour: Any, width: float, order: int) -> None:
        heights = [_height(study.space[name], trial, name) for name in names]
        heights.append((values[trial.number] - low) / (high - low))
        for place, (a, b) in enumerate(itertools.pairwise(heights)):
            gap = a is None or b is None
            y = (INACTIVE if a is None else a, INACTIVE if b is None else b)
            axes.plot(
                (place, place + 1), y, color=colour, lw=width * (0.6 if gap else 1.0), zorder=order,
                linestyle=(0, (3, 3)) if gap else "-", alpha=0.45 if gap and order < 5 else 0.9,
            )  # fmt: skip

    width = 1.4 if len(trials) <= 50 else 0.8
    worst_first = sorted(trials, key=lambda trial: values[trial.number], reverse=minimise)
    for trial in worst_first:
        if best is None or trial.number != best.number:
            draw(trial, colours.cmap(norm(values[trial.number])), width, 3)
    if best is not None and best.number in values:
        draw(best, RED, 2.2, 5)
        axes.plot([], [], color=RED, lw=2.2, label=f"winner: {best.trial_key}")
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)

    conditional = any(domain.when for domain in study.space.values())
    for place, name in enumerate(names):
        axes.vlines(place, 0, 1, color="black", lw=0.8, zorder=4)
        _ticks(axes, place, study.space[name])
        if study.space[name].when:
            axes.text(place, INACTIVE - 0.03, "inactive", ha="center", va="top", fontsize=8, color="#666666")
    axes.vlines(len(names), 0, 1, color="black", lw=0.8, zorder=4)
    axes.set_xticks(
        range(len(names) + 1),
        ["\n".join(textwrap.wrap(name.replace(".", ". "), 13)).replace(". ", ".") for name in [*names, objective]],
        fontsize=9,
    )
    axes.set_xlim(-0.25, len(names) + 0.15)
    axes.set_ylim(INACTIVE - 0.1 if conditional else -0.06, 1.06)
    axes.set_yticks(())
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.suptitle(f"{study.name}: {len(trials)} complete trial{'s' * (len(trials) != 1)}")
    if len(set(values.values())) > 1:
        figure.colorbar(colours, ax=axes, label=objective_label(study, objective), pad=0.01, fraction=0.03)
    elif values:
        text = f"{next(iter(values.values())):.4g}"
        axes.text(len(names) + 0.05, 0.5, text, fontsize=9, va="center", color=GREY if best is None else "black")
    save_figure(figure, path)
    return path


def _height(domain: Domain, trial: Trial, name: str) -> float | None:
    """Return where a trial's value lies on its axis, 0 to 1; None if the name is not active in it."""
    if name not in trial.values:
        return None
    value = trial.values[name]
    if domain.kind == "choice":
        shift = SPREAD * (2 * ((trial.number * 0.618) % 1.0) - 1)
        return _choice_height(domain, domain.corners.index(value) if value in domain.corners else 0) + shift
    low, high = _ends(domain)
    value = math.log(value) if domain.kind == "loguniform" else float(value)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _choice_height(domain: Domain, index: int) -> float:
    count = len(domain.corners)
    return 0.5 if count == 1 else index / (count - 1)


def _ends(domain: Domain) -> tuple[float, float]:
    low, high = (float(corner) for corner in domain.corners)  # type: ignore[arg-type]
    return (math.log(low), math.log(high)) if domain.kind == "loguniform" else (low, high)


def _ticks(axes: Axes, place: int, domain: Domain) -> None:
    marks: list[tuple[float, str]]
    if domain.kind == "choice":
        marks = [(_choice_height(domain, i), _short(choice)) for i, choice in enumerate(domain.corners)]
    else:
        low, high = _ends(domain)
        if domain.kind == "int" and high - low <= 5:
            inner = [low + step for step in range(int(high - low) + 1)]
        else:
            inner = [low + (high - low) * part for part in (0, 0.25, 0.5, 0.75, 1)]
        if domain.kind == "int":
            inner = sorted({float(round(value)) for value in inner})
        labels = [math.exp(value) if domain.kind == "loguniform" else value for value in inner]
        marks = [((value - low) / (high - low), f"{label:.3g}") for value, label in zip(inner, labels, strict=True)]
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for height, label in marks:
        axes.text(place - 0.04, height, label, ha="right", va="center", fontsize=8, zorder=6, bbox=box)
        axes.plot((place - 0.025, place), (height, height), color="black", lw=0.8, zorder=6)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return literal(text if len(text) <= 12 else f"{text[:11]}…")
