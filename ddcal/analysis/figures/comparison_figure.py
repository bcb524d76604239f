"""The Pareto fronts of several studies in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ddcal.analysis.figures.scales import mark_cut, scale_of
from ddcal.analysis.figures.style import SERIES, label_points, objective_label
from ddcal.errors import BadInput
from ddcal.pictures import literal, save_figure
from ddcal.study.record.results import StudyResults

MARKERS = "osD^vP*X"


def plot_fronts(studies: Sequence[StudyResults], labels: Sequence[str], path: Path) -> Path:
    """Draw the Pareto fronts of studies in the plane of the first two objectives that they share, and save a PNG.

    The dominated trials are faint, the winners ringed.

    Returns:
        ``path``.

    Raises:
        BadInput: if the studies do not share two objectives with the same directions.
    """
    from matplotlib.figure import Figure

    first = studies[0].study.objectives
    shared = [n for n, way in first.items() if all(r.study.objectives.get(n) == way for r in studies)]
    if len(shared) < 2:
        each = "; ".join(f"{label}: {', '.join(r.study.objectives)}" for label, r in zip(labels, studies, strict=True))
        raise BadInput(f"--to {path}: a picture needs two objectives that all studies share; they have {each}")
    x_name, y_name = shared[:2]
    labels = [literal(label) for label in labels]
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    found = {index: _points(results, x_name, y_name) for index, results in enumerate(studies)}
    values = [point for points in found.values() for point in points.values()]
    scales = [scale_of(name, [value[place] for value in values]) for place, name in enumerate(shared[:2])]
    for index, (results, label) in enumerate(zip(studies, labels, strict=True)):
        colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        points = {number: (scales[0].shown(x), scales[1].shown(y)) for number, (x, y) in found[index].items()}
        front = sorted(points[trial.number] for trial in results.pareto if trial.number in points)
        if not points:
            axes.plot([], [], color=colour, marker=marker, label=f"{label} (no complete trial)")
            continue
        x_all, y_all = zip(*points.values(), strict=True)
        axes.scatter(x_all, y_all, c=colour, marker=marker, s=18, alpha=0.35, linewidths=0, clip_on=False)
        line = len(results.study.objectives) == 2  # with a third one the front is no line in this plane
        axes.step(
            *zip(*front, strict=True), where="post" if first[x_name] == "min" else "pre",
            color=colour, marker=marker, markersize=6, lw=1.3 if line else 0.0, label=label,
        )  # fmt: skip
        best = results.best
        if best is not None and best.number in points:
            x, y = points[best.number]
            axes.scatter(x, y, s=150, facecolors="none", edgecolors=colour, linewidths=1.5)
    axes.scatter([], [], s=150, facecolors="none", edgecolors="black", linewidths=1.5, label="winner")
    axes.set_xlabel(objective_label(studies[0].study, x_name))
    axes.set_ylabel(objective_label(studies[0].study, y_name))
    axes.grid(alpha=0.3)
    if values:
        scales[0].apply(axes, "x")
        scales[1].apply(axes, "y")
    figure.legend(loc="outside lower center", ncols=2 if len(labels) > 3 else 4, frameon=False, fontsize=9)
    if values:
        figure.draw_without_rendering()  # the labels' places are those of the finished layout
        shown = [(scales[0].shown(x), scales[1].shown(y)) for x, y in values]
        label_points(axes, mark_cut(axes, shown, values, scales), shown)
    save_figure(figure, path)
    return path


def _points(results: StudyResults, x_name: str, y_name: str) -> dict[int, tuple[float, float]]:
    """Return trial number → both objectives of the complete trials that have them."""
    found = {}
    for trial in results.records:
        x, y = ((trial.metrics or {}).get(name) for name in (x_name, y_name))
        if trial.outcome == "complete" and x is not None and y is not None:
            found[trial.number] = (x, y)
    return found
