"""The calibrations that the report compares: where each number stands, and which real data it has used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ddcal.analysis.report.cells import Cell, Collected, Run, make_cell

Sees = Literal["nothing", "val"]

CROSS_ENTROPY = {"train.loss": "cross_entropy"}
MTS = {"calibrate.method": "mts", **CROSS_ENTROPY}
TUNED = "mts_val_tuned"


@dataclass(frozen=True)
class Method:
    """A calibration.

    Attributes:
        name: Its name in tables and CSV files.
        label: Its name for people.
        note: What it does, in a sentence.
        where: Settings of its trials.
        place: Where their metrics of it stand: ``""`` for the trial's own calibration, else ``raw/`` and its like.
        sees: Which real labelled images it was fitted or chosen on.
    """

    name: str
    label: str
    note: str
    where: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    sees: Sees = "nothing"

    def metric(self, name: str, split: str = "test") -> str:
        """Return the metric ``name`` of this calibration, as trials have it."""
        return f"{split}/{self.place}{name}"


METHODS = (
    Method("raw", "raw", "the network as trained", MTS, "raw/"),
    Method("ts_train", "TS, distilled images", "temperature fitted on the images it was trained on", MTS, "ts_train/"),
    Method(
        "ts_holdout",
        "TS, 10 % held out",
        "trained on nine tenths of the distilled images, temperature fitted on the last",
        {"calibrate.method": "ts_holdout", **CROSS_ENTROPY},
    ),
    Method(
        "ts_cv",
        "TS, cross-validated",
        "temperature fitted on distilled images that fold networks had not seen",
        {"calibrate.method": "ts_cv", **CROSS_ENTROPY},
    ),
    Method("mixup", "mixup", "trained with mixup", {"train.loss": "mixup"}, "raw/"),
    Method(
        "label_smoothing", "label smoothing", "trained with label smoothing", {"train.loss": "label_smoothing"}, "raw/"
    ),
    Method("focal", "focal loss", "trained with focal loss", {"train.loss": "focal"}, "raw/"),
    Method("mts", "MTS, r = 0.9", "masked distilled images, default ratio and bounds", MTS),
    Method(
        "mts_distilled",
        "MTS, r from distilled images",
        "the ratio at which masked accuracy meets the cross-validated one",
        {"calibrate.method": "mts_distilled", **CROSS_ENTROPY},
    ),
    Method(TUNED, "MTS, r tuned on val", "the ratio with the lowest NLL on val", {}, sees="val"),
    Method(
        "ts_val", "TS, real val", "temperature fitted on real labelled images: the reference", MTS, "ts_val/", "val"
    ),
)
"""In the order in which they are explained."""

BY_NAME = {method.name: method for method in METHODS}

DISTILLED_METHODS = tuple(method.name for method in METHODS)
FIGURE_2 = ("raw", "ts_train", "mixup", "label_smoothing", "focal", "mts", "ts_val")
"""The methods of Figure 2, and the reference."""

FDNN_METHODS = ("raw", "ts_val", "mixup", "label_smoothing", "focal", "mts")
"""The columns of Table 2; TS and MTS are fitted on real ``val``, which MTS masks."""


def method_cell(found: Collected, stem: str, method: Method, name: str, where: Mapping[str, Any]) -> Cell:
    """Return a metric of a method on the networks that ``where`` tells."""
    if method.name == TUNED:
        return make_cell(method.metric(name), tuned(found, where))
    return found.cell(stem, method.metric(name), {**where, **method.where})


def tuned(found: Collected, where: Mapping[str, Any]) -> list[Run]:
    """Return, for each seed, the trial of the mask ratios' study with the lowest ``val/nll``, which real labels tell."""
    best: dict[int, Run] = {}
    for run in found.select("mask_ratio", where):
        if run.gap is None:
            present = best.setdefault(run.seed, run)
            if (run.trial.metrics or {})["val/nll"] < (present.trial.metrics or {})["val/nll"]:
                best[run.seed] = run
    return [best[seed] for seed in sorted(best)]


def real_labels(method: Method, run: Run, val_images: int) -> int:
    """Return how many real labelled images a method was fitted or chosen on, beside the training set itself.

    Args:
        method: The calibration.
        run: A trial of it; a network of full data masks ``val`` for MTS.
        val_images: How many images ``val`` has.
    """
    full = run.settings["distill.backbone"] == "full"
    fitted = method.name in ("mts", "ts_val") if full else method.sees == "val"
    return val_images if fitted else 0
