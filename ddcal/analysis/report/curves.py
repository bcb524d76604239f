"""Figures that are made of the trials' numbers alone: ECE against images per class and against the mask ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddcal.analysis.figures.calibration_curves import (
    ece_against_ipc,
    ece_against_ratio,
    plot_ece_against_ipc,
    plot_ece_against_ratio,
)
from ddcal.analysis.report.cells import Collected, Run
from ddcal.analysis.report.drawings import Drawings, Drawn
from ddcal.analysis.report.methods import BY_NAME, CROSS_ENTROPY, FIGURE_2, stem_of

if TYPE_CHECKING:
    import pandas

RATIO, UNIT = "calibrate.mask.ratio", "calibrate.mask.unit"
UNITS = {"element": "elements", "pixel": "pixels", "patch": "patches"}
BACKBONES = ("real", "dsa")
"""The sets whose networks the sweeps look at."""


def draw_ipc(found: Collected, drawings: Drawings, reduced: bool) -> None:
    """Put Figure 2 on the page: ECE against images per class."""
    rows: list[dict[str, Any]] = []
    runs: list[Run] = []
    gaps: list[str] = []
    for name in FIGURE_2:
        method = BY_NAME[name]
        for run in found.select(stem_of(method, "ddnn"), method.where):
            if run.gap is not None:
                gaps.append(run.gap)
                continue
            rows.append(_row(found, run, name, (run.trial.metrics or {})[method.metric("ece")]))
            runs.append(run)

    def draw() -> Drawn:
        import pandas

        curves = ece_against_ipc(pandas.DataFrame(rows))
        caption = (
            "ECE on the test images (mean over seeds, bars: standard deviation between sets) of networks trained on "
            "few images a class: lower is better. `TS, real val` has seen real labels and is the reference; the "
            "others saw the distilled images alone."
        )
        return Drawn(plot_ece_against_ipc(curves, title=f"Figure 2: {found.dataset}", reduced=reduced), curves, caption)

    alt = f"Lines of ECE against images per class on {found.dataset}, a line a calibration"
    drawings.put(f"figure2-{found.dataset}", alt, list(dict.fromkeys(runs)), draw, gaps=dict.fromkeys(gaps))


def draw_ratio(found: Collected, drawings: Drawings, reduced: bool) -> None:
    """Put ECE against the mask ratio on the page."""
    runs, gaps = good_runs(found.select("mask_ratio", CROSS_ENTROPY))

    def draw() -> Drawn:

        curves = ece_against_ratio(ratio_frame(found, runs))
        caption = (
            "ECE on the test images against the ratio of MTS's mask. r = 0 is temperature scaling on the training "
            "images. Temperatures are bounded to [1, 20], so a fit that would sharpen the network leaves it raw. The "
            "ratio that is best here was seen by nobody: the table of calibrations says what each choice of it was "
            "allowed to look at. `noise floor` is the ECE that a perfectly calibrated network would show on so many "
            "images."
        )
        figure = plot_ece_against_ratio(curves, title=f"ECE against the mask ratio: {found.dataset}", reduced=reduced)
        return Drawn(figure, curves, caption)

    alt = f"Lines of ECE against the mask ratio on {found.dataset}, with raw and TS on real val as level lines"
    drawings.put(f"mask-ratio-{found.dataset}", alt, runs, draw, gaps=gaps)


def draw_masks(found: Collected, drawings: Drawings, reduced: bool) -> None:
    """Put ECE against the mask ratio on the page, for each unit of the mask, and for one draw beside several."""
    runs, gaps = good_runs(found.select("masks", CROSS_ENTROPY))

    def draw() -> Drawn:
        curves = ece_against_ratio(masks_frame(found, runs))
        caption = (
            "ECE on the test images of the same networks against the ratio of MTS's mask, where the mask takes away "
            "single values, whole pixels (all channels) or patches of 4 × 4 pixels, and where one draw of it is fitted "
            "instead of several together. Bands: one standard deviation between sets; that of one draw includes how "
            "much draws differ."
        )
        figure = plot_ece_against_ratio(curves, title=f"Masks of MTS: {found.dataset}", reduced=reduced)
        return Drawn(figure, curves, caption)

    alt = f"Lines of ECE against the mask ratio on {found.dataset}, a line a unit and number of draws"
    drawings.put(f"masks-{found.dataset}", alt, runs, draw, gaps=gaps)


def masks_frame(found: Collected, runs: Sequence[Run]) -> pandas.DataFrame:
    """Return one row a trial as `ece_against_ratio` takes them, the unit and draws of its mask as its method.

    Beside them, raw networks and TS on real ``val``, a row a seed.
    """
    import pandas

    rows: list[dict[str, Any]] = []
    seeds: set[int] = set()
    for run in sorted(runs, key=lambda run: (list(UNITS).index(run.settings[UNIT]), -run.settings["calibrate.draws"])):
        unit, draws = run.settings[UNIT], run.settings["calibrate.draws"]
        name = f"{UNITS[unit]}, {draws} draw{'s' * (draws != 1)}"
        metrics = run.trial.metrics or {}
        rows.append(_row(found, run, name, metrics["test/ece"], run.settings[RATIO]))
        if run.seed not in seeds:  # every trial of a seed has the same networks
            seeds.add(run.seed)
            rows += [_row(found, run, other, metrics[BY_NAME[other].metric("ece")]) for other in ("raw", "ts_val")]
    return pandas.DataFrame(rows).astype({"ratio": float})


def ratio_frame(found: Collected, runs: Sequence[Run]) -> pandas.DataFrame:
    """Return one row a trial and method as `ece_against_ratio` takes them."""
    import pandas

    rows, flat = [], set()
    for run in runs:
        metrics = run.trial.metrics or {}
        rows.append(_row(found, run, "mts", metrics["test/ece"], run.settings[RATIO]))
        networks = (run.settings["distill.backbone"], run.settings["distill.ipc"], run.seed)
        if networks not in flat and run.settings[RATIO] == 0.0:
            flat.add(networks)
            for name in ("raw", "ts_val"):
                rows.append(_row(found, run, name, metrics[BY_NAME[name].metric("ece")], None))
            rows.append(_row(found, run, "noise_floor", metrics["test/ece_noise_floor"], None))
    return pandas.DataFrame(rows).astype({"ratio": float})


def good_runs(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the trials that have numbers, and why the others have not."""
    return [run for run in runs if run.gap is None], [run.gap for run in runs if run.gap is not None]


def _row(found: Collected, run: Run, method: str, ece: float, ratio: float | None = None) -> dict[str, Any]:
    row = {"dataset": found.dataset, "backbone": run.settings["distill.backbone"], "ipc": run.settings["distill.ipc"]}
    return row | {"method": method, "ratio": ratio, "seed": run.seed, "ece": ece}
