"""The paper's optimiser beside the bounded one, on the same masked logits, over all mask ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddcal.analysis.labels import COLOURS, headline
from ddcal.analysis.report.artefacts import Artefacts, Lost
from ddcal.analysis.report.cells import Collected, Run, per_class
from ddcal.analysis.report.curves import RATIO, good_runs
from ddcal.analysis.report.drawings import Drawings, Drawn
from ddcal.analysis.report.methods import CROSS_ENTROPY

if TYPE_CHECKING:
    import pandas
    import torch
    from matplotlib.figure import Figure

START = 1.5
"""Where the paper's optimiser starts (method.md, MTS)."""

WIDE, FLOORED = (0.05, 20.0), (1.0, 20.0)
"""Bounds without and with the floor of 1, the default of MTS on training images."""

WHOLE_WAY = 0.9
"""A share of the way from `START` to the optimum (in log T) below which the optimiser is said to stop early."""


def solver_frame(artefacts: Artefacts, runs: Sequence[Run]) -> pandas.DataFrame:
    """Return one row a trial of the mask ratios' study: what each solver finds on its first network's logits.

    Columns: dataset, backbone, ipc, seed, ratio, ``paper_t``, ``bounded_t`` (bounds `WIDE`), ``floored_t`` (bounds
    `FLOORED`), ``paper_ece``, ``bounded_ece``, ``floored_ece``, ``raw_ece`` (test, in percent; missing for temperatures
    that are not positive), ``way`` (the share of the way to the optimum that the paper's optimiser has gone) and
    ``verdict``.

    Raises:
        Lost: if the store has logits no more.
    """
    import pandas

    frame = pandas.DataFrame([_row(artefacts, run) for run in runs])
    return frame.astype({"paper_t": float, "paper_ece": float, "way": float})


def verdict(paper: float | None, optimum: float) -> tuple[float | None, str]:
    """Return how far the paper's optimiser came, and in words: diverged, negative, stopped early, passed, or arrived.

    Args:
        paper: Its temperature; None where it ended at none that can be used.
        optimum: The optimum within `WIDE`.
    """
    import math

    if paper is None:
        return None, "diverged"
    if paper <= 0.0:
        return None, "negative"
    whole = math.log(optimum / START)
    if abs(whole) < 0.02:
        return None, "arrived"
    way = math.log(paper / START) / whole
    if way < 0.0:
        return way, "moved away"
    if way < WHOLE_WAY:
        return way, "stopped early"
    return way, "arrived" if way <= 2.0 - WHOLE_WAY else "passed it"


def draw_solvers(found: Collected, drawings: Drawings, artefacts: Artefacts, reduced: bool) -> None:
    """Put the comparison of the two solvers on the page."""
    ipc = found.usual_ipc("mask_ratio")
    good, gaps = good_runs(found.select("mask_ratio", {**CROSS_ENTROPY, "distill.ipc": ipc}))
    seeds = sorted({run.seed for run in good})[:3]
    runs = [run for run in good if run.seed in seeds]

    def draw() -> Drawn:
        frame = solver_frame(artefacts, runs)
        frame.insert(0, "dataset", found.dataset)
        counts = frame["verdict"].value_counts().to_dict()
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        way = frame["way"].dropna()
        middle = f" In the median it went {100 * way.median():.0f} % of the way, in log T." if len(way) else ""
        left_out = " Negative temperatures turn the order of classes around and are left out of the curves."
        left_out = left_out if counts.get("negative") else ""
        usable = int(frame["paper_ece"].notna().sum())
        worse = int((frame["paper_ece"] > frame["raw_ece"] + 1e-9).sum())
        first = frame[frame["ratio"] == frame["ratio"].min()].mean(numeric_only=True)
        caption = (
            f"The same masked logits fitted by the paper's optimiser (LBFGS from T = {START}, 50 steps of 0.01, no "
            f"bounds) and exactly within bounds, over {len(frame)} fits on the first network of each set. Where the "
            f"paper's optimiser ended against the optimum in [0.05, 20]: {told}.{middle}{left_out} "
            f"Its ECE is above that of the raw network in {worse} of the {usable} fits with a positive temperature. "
            f"At ratio {first['ratio']:g} the optimum is T = {first['bounded_t']:.2f} with ECE "
            f"{first['bounded_ece']:.1f} %, with a floor of 1 it is T = {first['floored_t']:.2f} with "
            f"{first['floored_ece']:.1f} %, and the raw network has {first['raw_ece']:.1f} %: "
            "training images that are hardly masked sharpen a network, which is why fits "
            "on them are bounded from below."
        )
        figure = plot_solvers(frame, title=f"Solvers of MTS: {found.dataset}, {per_class(ipc)}", reduced=reduced)
        return Drawn(figure, frame, caption)

    alt = f"Temperature and ECE against the mask ratio on {found.dataset} for the paper's optimiser and bounded fits"
    drawings.put(f"solvers-{found.dataset}", alt, runs, draw, gaps=gaps)


def plot_solvers(frame: pandas.DataFrame, *, title: str = "", reduced: bool = False) -> Figure:
    """Return temperatures above and ECE below, a column a backbone, over the ratio; means over seeds.

    A temperature that is not positive is left out: it turns the order of classes around.

    Args:
        frame: Of `solver_frame`.
        title: Written above.
        reduced: Write that the scale is not the paper's.
    """
    from matplotlib.figure import Figure

    backbones = list(dict.fromkeys(frame["backbone"]))
    figure = Figure(figsize=(max(6.5, 4.6 * len(backbones)), 6.4), layout="constrained")
    panels: Any = figure.subplots(2, len(backbones), sharex=True, sharey="row", squeeze=False)
    kinds = (
        ("paper", "paper_lbfgs", "o"),
        ("bounded", "bounded, [0.05, 20]", "s"),
        ("floored", "bounded, [1, 20]", "^"),
    )
    for column, backbone in enumerate(backbones):
        part = frame[frame["backbone"] == backbone]
        for (kind, label, marker), colour in zip(kinds, COLOURS, strict=False):
            usable = part[part[f"{kind}_t"] > 0.0]
            means = usable.groupby("ratio")[[f"{kind}_t", f"{kind}_ece"]].mean()
            for row, name in enumerate((f"{kind}_t", f"{kind}_ece")):
                panels[row, column].plot(means.index, means[name], color=colour, marker=marker, lw=1.5, label=label)
        panels[1, column].axhline(part["raw_ece"].mean(), color="#333333", lw=1.2, linestyle="--", label="raw")
        panels[0, column].axhline(1.0, color="#999999", lw=0.8)
        panels[0, column].set_title(f"{backbone} ({part['seed'].nunique()} sets)", fontsize=10)
        panels[1, column].set_xlabel("mask ratio")
    panels[0, 0].set_ylabel("temperature (log scale)")
    panels[0, 0].set_yscale("log")
    panels[1, 0].set_ylabel("ECE (%)")
    for axes in panels.flatten():
        axes.grid(alpha=0.3)
    panels[0, 0].yaxis.set_major_formatter("{x:g}")
    handles, labels = panels[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    headline(figure, title, reduced)
    return figure


def _row(artefacts: Artefacts, run: Run) -> dict[str, Any]:
    from ddcal.calibration import CalibrationError, expected_calibration_error, fit_temperature

    logits = artefacts.logits(run)
    masked, labels = _masked(artefacts, run, logits)
    flat, repeated = masked.flatten(0, 1), labels.repeat(len(masked))
    temperatures: dict[str, float | None] = {
        "bounded": fit_temperature(flat, repeated, WIDE).temperature,
        "floored": fit_temperature(flat, repeated, FLOORED).temperature,
    }
    try:
        temperatures["paper"] = fit_temperature(flat, repeated, solver="paper_lbfgs").temperature
    except CalibrationError:
        temperatures["paper"] = None
    optimum = temperatures["bounded"]
    assert optimum is not None
    way, said = verdict(temperatures["paper"], optimum)
    bins, test, truth = run.settings["evaluate.bins"], logits["test_logits"][0], logits["test_labels"]

    def ece(temperature: float | None) -> float | None:
        if temperature is None or temperature <= 0.0:
            return None
        return 100.0 * expected_calibration_error(test / temperature, truth, bins)

    row: dict[str, Any] = {"backbone": run.settings["distill.backbone"], "ipc": run.settings["distill.ipc"]}
    row |= {"seed": run.seed, "ratio": run.settings[RATIO]}
    row |= {f"{kind}_t": temperatures[kind] for kind in ("paper", "bounded", "floored")}
    row |= {f"{kind}_ece": ece(temperatures[kind]) for kind in ("paper", "bounded", "floored")}
    return row | {"raw_ece": ece(1.0), "way": way, "verdict": said}


def _masked(artefacts: Artefacts, run: Run, logits: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the masked logits (draws, M, K) of the first network and their labels, as the calibrate stage had them."""
    from ddcal.pipeline.compute.masked import MaskedImages

    if run.settings[RATIO] == 0.0:
        return logits["train_logits"][:1], logits["train_labels"]

    def load() -> Any:
        raise Lost(f"masked logits of {run.trial.trial_key} are not in the store: run that trial again")

    images = MaskedImages(artefacts.config(run), artefacts.store_of(run), (run.trial.keys or {})["train"], load)
    found, labels = images.logits(run.settings[RATIO], run.settings["calibrate.draws"])
    return found[0], labels
