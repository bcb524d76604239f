"""The picture of an evaluation: its reliability diagrams side by side."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ddcal.config import TrialConfig

logger = logging.getLogger(__name__)

DIAGRAM = "reliability.png"


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
    title = (
        f"{config.data.name}, {config.distill.backbone}, {config.distill.ipc} images per class; "
        f"test images, network 1 of {config.train.networks}"
    )
    try:
        save_figure(plot_reliability({name: rows[name] for name in order}, title), path)
    except Exception as error:  # a picture: what it shows is in the evaluation's values
        logger.warning("evaluate: the reliability diagram is not drawn: %s: %s", type(error).__name__, error)
        path.unlink(missing_ok=True)
