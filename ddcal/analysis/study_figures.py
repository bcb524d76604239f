"""Pictures of a study: its trials and Pareto front in the plane of two objectives."""

from __future__ import annotations

from pathlib import Path

from ddcal.calibration import save_figure
from ddcal.study.results import StudyResults, Trial

GREY, BLUE, RED = "#b8b8b8", "#3b6ea8", "#d1495b"


def plot_pareto(results: StudyResults, path: Path) -> Path:
    """Draw every trial in the plane of the first two objectives, the feasible front joined, and save a PNG.

    A study of one objective is drawn over the trial number instead.

    Returns:
        ``path``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    objectives = list(results.study.objectives)
    front = {trial.number for trial in results.pareto}

    def place(trial: Trial) -> tuple[float, float]:
        metrics = trial.metrics or {}
        x = float(trial.number) if len(objectives) == 1 else metrics[objectives[0]]
        return x, metrics[objectives[-1 if len(objectives) == 1 else 1]]

    drawn = [t for t in results.records if t.outcome in ("complete", "infeasible") and t.metrics]
    for label, color, marker, chosen in (
        ("infeasible", GREY, "x", [t for t in drawn if t.outcome == "infeasible"]),
        ("feasible", BLUE, "o", [t for t in drawn if t.outcome == "complete" and t.number not in front]),
        ("Pareto front", RED, "o", [t for t in drawn if t.number in front]),
    ):
        if chosen:
            x, y = zip(*map(place, chosen), strict=True)
            axes.scatter(x, y, c=color, marker=marker, s=36, label=label, zorder=2)
    if len(objectives) > 1 and len(front) > 1:
        x, y = zip(*sorted(place(trial) for trial in drawn if trial.number in front), strict=True)
        axes.plot(x, y, color=RED, lw=1, zorder=1)
    best = results.best
    if best is not None:
        axes.annotate(f"{best.trial_key} (winner)", place(best), (8, 8), textcoords="offset points", fontsize=9)
    axes.set_xlabel("trial" if len(objectives) == 1 else _label(results, objectives[0]))
    axes.set_ylabel(_label(results, objectives[-1 if len(objectives) == 1 else 1]))
    axes.set_title(results.study.name)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(frameon=False)
    save_figure(figure, path)
    return path


def _label(results: StudyResults, objective: str) -> str:
    return f"{objective} ({'lower' if results.study.objectives[objective] == 'min' else 'higher'} is better)"
