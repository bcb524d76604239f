"""Parallel coordinates: every complete trial as a line over the searched names, coloured by an objective."""

from __future__ import annotations

import itertools
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal.analysis.figures.scales import LABEL_BOX, Scale, scale_of
from ddcal.analysis.figures.style import VERMILLION
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
    """Draw the complete trials with a value of ``objective``, better ones darker, the winner in vermillion; save a PNG.

    Colours go by rank, so that one outlier leaves the others their differences; the objective's axis is `scale_of`'s.

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
    scale = scale_of(objective, list(values.values()))
    ordered = sorted(values.values())
    last = len(ordered) - 1  # equal values share their mean rank
    ranks = {n: (ordered.index(value) + last - ordered[::-1].index(value)) / 2 for n, value in values.items()}
    norm = Normalize(0, max(1, last))
    figure: Figure = Figure(figsize=(max(7.0, 2.6 + 1.2 * len(names)), 5), layout="constrained")
    axes = figure.add_subplot()
    minimise = study.objectives[objective] == "min"
    colours = ScalarMappable(norm, "viridis" if minimise else "viridis_r")  # dark is good
    best = results.best

    def draw(trial: Trial, colour: Any, width: float, order: int) -> None:
        heights = [_height(study.space[name], trial, name) for name in names]
        heights.append(scale.place(values[trial.number]))
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
            draw(trial, colours.cmap(norm(ranks[trial.number])), width, 3)
    if best is not None and best.number in values:
        draw(best, VERMILLION, 2.2, 5)
        axes.plot([], [], color=VERMILLION, lw=2.2, label=f"winner: {best.trial_key}")
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)

    conditional = any(domain.when for domain in study.space.values())
    for place, name in enumerate(names):
        axes.vlines(place, 0, 1, color="black", lw=0.8, zorder=4)
        _ticks(axes, place, study.space[name])
        if study.space[name].when:
            axes.text(place, INACTIVE - 0.03, "inactive", ha="center", va="top", fontsize=8, color="#666666")
    axes.vlines(len(names), 0, 1, color="black", lw=0.8, zorder=4)
    _objective_ticks(axes, len(names), scale)
    axes.set_xticks(
        range(len(names) + 1),
        ["\n".join(textwrap.wrap(name.replace(".", ". "), 13)).replace(". ", ".") for name in [*names, objective]],
        fontsize=9,
    )
    axes.set_xlim(-0.25, len(names) + 0.5)
    axes.set_ylim(INACTIVE - 0.1 if conditional else -0.06, 1.06)
    axes.set_yticks(())
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.suptitle(f"{study.name}: {len(trials)} complete trial{'s' * (len(trials) != 1)}")
    if len(set(ordered)) > 1:
        bar = figure.colorbar(colours, ax=axes, label=f"{objective}, coloured by rank", pad=0.01, fraction=0.03)
        places = sorted({0, last // 2, last})
        bar.set_ticks(places, labels=[f"{ordered[place]:.3g}" for place in places])
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
        labels = [_short(choice) for choice in domain.corners]
        if len(set(labels)) < len(labels):  # cut, two choices look the same
            labels = [literal(str(choice)) for choice in domain.corners]
        marks = [(_choice_height(domain, i), label) for i, label in enumerate(labels)]
    else:
        low, high = (float(corner) for corner in domain.corners)  # type: ignore[arg-type]
        scale = Scale(domain.kind == "loguniform", low, high)
        inner = [v for v in scale.ticks() if domain.kind != "int" or v == round(v)] if high > low else []
        inner = [v for v in inner if 0.08 < scale.place(v) < 0.92]
        marks = [(scale.place(value), f"{value:.4g}") for value in (low, *inner, high)]
    for height, label in marks:
        axes.text(place - 0.04, height, label, ha="right", va="center", fontsize=8, zorder=6, bbox=LABEL_BOX)
        axes.plot((place - 0.025, place), (height, height), color="black", lw=0.8, zorder=6)


def _objective_ticks(axes: Axes, place: int, scale: Scale) -> None:
    """Write the objective's values at the right of its axis; the value of one that was cut off stands at its end."""
    marks = [(scale.place(value), f"{value:.3g}") for value in scale.ticks()]
    for height, beyond in (
        (0.0, [v for v in scale.cut if v < scale.low]),
        (1.0, [v for v in scale.cut if v > scale.high]),
    ):
        if beyond:
            farthest = min(beyond) if height == 0.0 else max(beyond)
            marks = [mark for mark in marks if abs(mark[0] - height) > 0.06]
            marks.append((height, f"{'↓' if height == 0.0 else '↑'} {farthest:.3g}"))
    for height, label in marks:
        axes.text(place + 0.05, height, label, ha="left", va="center", fontsize=8, zorder=6, bbox=LABEL_BOX)
        axes.plot((place, place + 0.03), (height, height), color="black", lw=0.8, zorder=6)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return literal(text if len(text) <= 12 else f"{text[:11]}…")
