"""Pictures of one study: its Pareto front, its history, its importances. `draw_study` draws them all."""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.analysis.figures.parallel import plot_parallel
from ddcal.analysis.figures.scales import Scale, mark_cut, scale_of
from ddcal.analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    label_points,
    objective_label,
    trial_ticks,
    whole_file_name,
)
from ddcal.pictures import save_figure
from ddcal.study.record.results import StudyResults, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ddcal.config import StudyConfig
    from ddcal.study.search.importance import Importance

FIGURES = "figures"
"""The folder of a study's pictures, in the study's folder."""

ROOM_BELOW = 0.1
"""Of a panel's height, for the marks of trials without a value."""

MIN_TRIALS, MANY_TRIALS = 4, 200

VALUELESS = {
    "pruned": (ORANGE, "v"),
    "failed": (VERMILLION, "x"),
    "out_of_memory": (VERMILLION, "D"),
    "killed": (GREY, "s"),
}
"""Outcomes that leave no final value: colour and marker below the axis."""


def draw_study(results: StudyResults, folder: Path | None = None, *, hurried: bool = False) -> list[Path]:
    """Draw every picture of a study.

    Args:
        results: The study.
        folder: Where the PNG files go; default: ``figures/`` in the study's folder.
        hurried: Leave out the importances of a study of more than `MANY_TRIALS`, which take seconds. They are
            always left out below `MIN_TRIALS`.

    Returns:
        The files, in the order in which one looks at them. Pictures that need a trial with a result are left out
        if there is none.
    """
    folder = folder or results.directory / FIGURES
    pictures = [plot_history(results, folder / "history.png")]
    measured = [t for t in results.records if any(_value(t, name) is not None for name in results.study.objectives)]
    if measured:
        pictures.insert(0, plot_pareto(results, folder / "pareto.png"))
        if results.study.space:
            for objective in results.study.objectives:
                path = folder / f"parallel-{whole_file_name(objective)}.png"
                pictures.append(plot_parallel(results, objective, path))
            if len(measured) >= MIN_TRIALS and not (hurried and len(measured) > MANY_TRIALS):
                pictures.append(plot_importances(results, folder / "importance.png"))
    return pictures


def prepare_drawing(study: StudyConfig) -> None:
    """Import what importances need (scikit-learn: seconds) in the background, if `draw_at_end` is going to draw them.

    Args:
        study: The study, whose last trials are running.
    """

    def load() -> None:
        with suppress(Exception):  # whoever needs it says so
            importlib.import_module("ddcal.study.search.importance")

    if study.space and MIN_TRIALS <= study.search.trials <= MANY_TRIALS:
        threading.Thread(target=load, name="ddcal-importance").start()


def draw_at_end(results: StudyResults) -> None:
    """Draw the pictures that a study leaves behind; for `ddcal.study.run.runner.Hooks`."""
    draw_study(results, hurried=True)


def plot_pareto(results: StudyResults, path: Path) -> Path:
    """Draw every trial in the plane of the first two objectives, the feasible front joined and numbered; save a PNG.

    A study of one objective is drawn over the trial number instead.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    objectives = list(results.study.objectives)
    front = {trial.number for trial in results.pareto}
    drawn = [
        t
        for t in results.records
        if t.outcome in ("complete", "infeasible") and all(_value(t, name) is not None for name in objectives[:2])
    ]
    shown = objectives[:2] if len(objectives) > 1 else objectives
    scales = [scale_of(name, [float((t.metrics or {})[name]) for t in drawn]) for name in shown]

    def place(trial: Trial) -> tuple[float, float]:
        at = [scale.shown((trial.metrics or {})[name]) for name, scale in zip(shown, scales, strict=True)]
        return (float(trial.number), at[0]) if len(at) == 1 else (at[0], at[1])

    best = results.best
    for label, color, marker, chosen in (
        ("infeasible", GREY, "x", [t for t in drawn if t.outcome == "infeasible"]),
        ("feasible", BLUE, "o", [t for t in drawn if t.outcome == "complete" and t.number not in front]),
        ("Pareto front" if len(objectives) > 1 else "best", VERMILLION, "o", [t for t in drawn if t.number in front]),
    ):
        if chosen:
            x, y = zip(*map(place, chosen), strict=True)
            axes.scatter(x, y, c=color, marker=marker, s=36, label=label, zorder=2, clip_on=False)
    if len(objectives) == 2 and len(front) > 1:  # with a third objective the front is no line in this plane
        points = sorted(place(trial) for trial in drawn if trial.number in front)
        way = results.study.objectives[objectives[0]]
        x, y = zip(*points, strict=True)
        # Between two members nothing is known: the step goes through what both of them already reach.
        axes.step(x, y, where="post" if way == "min" else "pre", color=VERMILLION, lw=1, zorder=1)
    if best is not None and best in drawn:
        label = f"winner: {best.trial_key}"
        axes.scatter(
            *place(best), s=130, facecolors="none", edgecolors=VERMILLION, linewidths=1.5, label=label, zorder=3
        )
    if len(objectives) == 1:
        trial_ticks(axes)
    axes.set_xlabel("trial" if len(objectives) == 1 else objective_label(results.study, objectives[0]))
    axes.set_ylabel(objective_label(results.study, objectives[-1 if len(objectives) == 1 else 1]))
    axes.set_title(results.study.name)
    axes.grid(alpha=0.3)
    if len(scales) > 1:
        scales[0].apply(axes, "x")
    scales[-1].apply(axes, "y")
    if drawn:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        figure.draw_without_rendering()  # the labels' places are those of the finished layout
        numbered = [t for t in drawn if t.number in front] if len(objectives) > 1 else []
        values = [[float((t.metrics or {})[name]) for name in shown] for t in drawn]
        labels = [(place(t), str(t.number)) for t in numbered]
        labels += mark_cut(axes, [place(t) for t in drawn], values, scales)
        label_points(axes, labels, [place(t) for t in drawn])
    save_figure(figure, path)
    return path


def plot_history(results: StudyResults, path: Path) -> Path:
    """Draw every trial by number in a panel an objective, with the best complete one so far, and save a PNG.

    Trials without a result (pruned, failed, out of memory, killed) are marked below the panel.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    objectives = list(results.study.objectives)
    figure = Figure(figsize=(8, 0.6 + 2.6 * len(objectives)), layout="constrained")
    panels = figure.subplots(len(objectives), 1, sharex=True, squeeze=False)[:, 0]
    scales = [_draw_history(axes, results, objective) for axes, objective in zip(panels, objectives, strict=True)]
    panels[-1].set_xlabel("trial")
    trial_ticks(panels[-1])
    panels[0].set_title(results.study.name)
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if entries:
        columns = min(7, len(entries))
        figure.legend(
            entries.values(), entries, loc="outside lower center", ncols=columns,
            columnspacing=1.2, handletextpad=0.3, frameon=False, fontsize=9,
        )  # fmt: skip
    figure.draw_without_rendering()  # as in `plot_pareto`
    for axes, objective, scale in zip(panels, objectives, scales, strict=True):
        _mark_history(axes, results, objective, scale)
    save_figure(figure, path)
    return path


def plot_importances(results: StudyResults, path: Path) -> Path:
    """Draw the importance of every name for every objective as bars with their intervals, and save a PNG.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    from ddcal.study.search.importance import caution, importances

    found = importances(results)
    objectives = list(results.study.objectives)
    height = 1.1 + len(objectives) * (0.7 + 0.34 * len(results.study.space))
    figure = Figure(figsize=(8, height), layout="constrained")
    panels = figure.subplots(len(objectives), 1, squeeze=False)[:, 0]
    for axes, objective in zip(panels, objectives, strict=True):
        _draw_importances(axes, [one for one in found if one.objective == objective])
        axes.set_title(f"share of the variance of {objective} (fANOVA)", fontsize=10, loc="left")
    note = caution(found)
    figure.suptitle(results.study.name + (f"\n{note}" if note else ""), fontsize=9 if note else 12)
    save_figure(figure, path)
    return path


def _draw_history(axes: Axes, results: StudyResults, objective: str) -> Scale:
    minimise = results.study.objectives[objective] == "min"
    measured = [(t, v) for t in results.records if (v := _value(t, objective)) is not None]
    valueless = any(trial.outcome in VALUELESS for trial in results.records)
    scale = scale_of(objective, [value for _, value in measured])
    scale = scale.with_room_below(ROOM_BELOW) if valueless else scale
    for outcome, color, marker, order in (("complete", BLUE, "o", 3), ("infeasible", GREY, "x", 2)):
        points = [(trial.number, scale.shown(value)) for trial, value in measured if trial.outcome == outcome]
        if points:
            at, values = zip(*points, strict=True)
            axes.scatter(at, values, c=color, marker=marker, s=22, label=outcome, zorder=order, clip_on=False)
    best: list[tuple[int, float]] = []
    for trial, value in measured:
        if trial.outcome == "complete":
            so_far = best[-1][1] if best else value
            best.append((trial.number, min(so_far, value) if minimise else max(so_far, value)))
    if best:
        best.append((max(results.records[-1].number, best[-1][0]), best[-1][1]))
        x, y = zip(*best, strict=True)
        axes.step(x, y, where="post", color=GREEN, lw=1.5, label="best so far", zorder=1)
    for outcome, (color, marker) in VALUELESS.items():
        numbers = [trial.number for trial in results.records if trial.outcome == outcome]
        if numbers:
            across = axes.get_xaxis_transform()  # x in trials, y in parts of the panel
            label = outcome.replace("_", " ")
            low = [0.03] * len(numbers)
            axes.scatter(numbers, low, c=color, marker=marker, s=22, transform=across, label=label, zorder=4)
    axes.set_ylabel(objective_label(results.study, objective), fontsize=9)
    axes.grid(alpha=0.3)
    if measured:
        scale.apply(axes, "y")
    return scale


def _mark_history(axes: Axes, results: StudyResults, objective: str, scale: Scale) -> None:
    """Mark the values beyond a panel; its layout must be final."""
    measured = [(trial, value) for trial in results.records if (value := _value(trial, objective)) is not None]
    points = [(float(trial.number), scale.shown(value)) for trial, value in measured]
    label_points(axes, mark_cut(axes, points, [[value] for _, value in measured], [scale]), points)


def _draw_importances(axes: Axes, rows: list[Importance]) -> None:
    for place, one in enumerate(rows):
        if one.share is None or one.low is None or one.high is None:
            axes.text(
                1.02, place, f"{one.without_share} ({one.trials} trials)", va="center", fontsize=9, color="#555555"
            )
            continue
        axes.barh(place, one.share, color=BLUE if one.better != "unclear" else GREY, height=0.6)
        axes.hlines(place, one.low, one.high, color="black", lw=1.4, clip_on=False)
        better = "no clear direction" if one.better == "unclear" else f"better: {one.better}"
        note = f"{better}, {one.trials} trials" + (", where active" if one.where else "")
        axes.text(1.02, place, note, va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [one.name for one in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1.0))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _value(trial: Trial, metric: str) -> float | None:
    """Return a metric of a trial that ran to its end."""
    return (trial.metrics or {}).get(metric) if trial.outcome in ("complete", "infeasible") else None
