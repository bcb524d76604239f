"""The pictures of an evaluation: its reliability diagrams side by side, and what corruptions of the images change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddcal.config import TrialConfig

logger = logging.getLogger(__name__)

DIAGRAM = "reliability.png"
SHIFT_PICTURE = "shift.png"

LINES = {"raw": ("#000000", "o"), "ts_train": ("#0072b2", "s"), "": ("#d55e00", "*"), "ts_val": ("#009e73", "D")}
"""Calibration → colour (of Okabe and Ito, 2008) and marker; "" is the trial's own."""


def draw_diagram(values: dict[str, Any], config: TrialConfig, path: Path) -> None:
    """Write the reliability diagrams of an evaluation as a PNG."""
    import numpy

    from ddcal.calibration import ReliabilityBins, plot_reliability
    from ddcal.pictures import save_figure

    rows = {
        name: ReliabilityBins(
            counts=numpy.array(bins["counts"]),
            confidence=numpy.array(bins["confidence"], dtype=float),
            accuracy=numpy.array(bins["accuracy"], dtype=float),
        )
        for name, bins in values["reliability"].items()
    }
    places = {"raw": 0, "ts_train": 1, "ts_val": 3}
    order = sorted(rows, key=lambda name: places.get(name, 2))
    title = f"{trained_on(config)}; test images, network 1 of {config.train.networks}"
    try:
        save_figure(plot_reliability({name: rows[name] for name in order}, title), path)
    except Exception as error:  # a picture: what it shows is in the evaluation's values
        logger.warning("evaluate: the reliability diagram is not drawn: %s: %s", type(error).__name__, error)
        path.unlink(missing_ok=True)


def draw_shift(metrics: Mapping[str, float], config: TrialConfig, path: Path) -> None:
    """Write accuracy and ECE against the strength of each corruption, raw and calibrated, as a PNG.

    Args:
        metrics: Of the evaluation; strength 0 are the images as they are.
        config: The trial.
        path: Where to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ddcal.data.corruptions import STRENGTHS
    from ddcal.pictures import literal, save_figure

    corruptions = sorted(set(config.evaluate.shift.corruptions))
    own = config.calibrate.method
    try:
        figure = Figure(figsize=(1.2 + 2.6 * max(2, len(corruptions)), 5.2), layout="constrained")
        FigureCanvasAgg(figure)  # the object API: no pyplot, no global state
        axes = figure.subplots(2, len(corruptions), sharex=True, sharey="row", squeeze=False)
        for column, corruption in enumerate(corruptions):
            kinds = ["clean", *(f"{corruption}-{strength}" for strength in STRENGTHS)]
            for row, name in enumerate(("accuracy", "ece")):
                for calibration, (colour, marker) in LINES.items():
                    prefix = f"test/{calibration}/" if calibration else "test/"
                    values = [metrics.get(f"{prefix}shift/{kind}/{name}") for kind in kinds]
                    again = not calibration and own in (*LINES, "none")  # of another line
                    if None in values or again:
                        continue
                    label = calibration or own
                    axes[row][column].plot((0, *STRENGTHS), values, color=colour, marker=marker, label=literal(label))
            axes[0][column].set_title(corruption, fontsize=10)
            axes[1][column].set_xlabel("strength")
        for row, name in enumerate(("accuracy", "ECE")):
            axes[row][0].set_ylabel(name)
            axes[row][0].set_ylim(bottom=0.0)
        handles, labels = axes[1][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(literal(f"{trained_on(config)}; test images"), fontsize=11)
        save_figure(figure, path)
    except Exception as error:  # a picture: what it shows is in the evaluation's values
        logger.warning("evaluate: the picture of corruptions is not drawn: %s: %s", type(error).__name__, error)
        path.unlink(missing_ok=True)


def trained_on(config: TrialConfig) -> str:
    """Return what the networks were trained on, in words."""
    distill = config.distill
    images = (
        f"{distill.ipc} image{'s' * (distill.ipc != 1)} a class" if distill.spec.distills else "all training images"
    )
    return f"{config.data.name}, {distill.backbone}, {images}"
