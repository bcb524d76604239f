"""The calibrations that the report compares: where each number stands, and which real labels it has used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddcal.analysis.labels import method_label
from ddcal.analysis.report.cells import Cell, Collected, Run, make_cell
from ddcal.config.backbones import BACKBONES
from ddcal.config.calibrations import CALIBRATIONS, real_labels_used

CROSS_ENTROPY = {"train.loss": "cross_entropy"}
MTS = {"calibrate.method": "mts", **CROSS_ENTROPY}
TUNED = "mts_val_tuned"


@dataclass(frozen=True)
class Method:
    """A calibration.

    Attributes:
        name: Its name in tables and CSV files.
        note: What it does, in a few words.
        where: Settings of its trials.
        place: Where their metrics of it stand: ``""`` for the trial's own calibration, else ``raw/`` and its like.
    """

    name: str
    note: str
    where: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def label(self) -> str:
        """Its name for people."""
        return method_label(self.name)

    def metric(self, name: str, split: str = "test") -> str:
        """Return the metric ``name`` of this calibration, as trials have it."""
        return f"{split}/{self.place}{name}"


def _own(name: str, note: str) -> Method:
    """Return the method that is a trial's own calibration."""
    return Method(name, note, {"calibrate.method": name, **CROSS_ENTROPY})


def _loss(name: str) -> Method:
    """Return the method that is a loss, and nothing after training."""
    return Method(name, f"trained with {method_label(name)}, raw", {"train.loss": name}, "raw/")


METHODS = (
    Method("raw", "as trained, with cross-entropy", MTS, "raw/"),
    Method("ts_train", "temperature fitted on the images it was trained on", MTS, "ts_train/"),
    _own("ts_holdout", "trained on nine tenths of the images, temperature fitted on the others"),
    _own("ts_cv", "temperature fitted on images that fold networks had not seen"),
    _loss("mixup"),
    _loss("label_smoothing"),
    _loss("focal"),
    Method("mts", "masked distilled images, r = 0.9 and default bounds", MTS),
    _own("mts_distilled", "where the masked accuracy meets the cross-validated one"),
    Method(TUNED, "the ratio with the lowest NLL on val"),
    Method("ts_val", "temperature fitted on real labelled images: the reference", MTS, "ts_val/"),
    _own("vs_val", "a factor and an offset a class"),
    _own("ets_val", "a mixture of scaled, raw and uniform probabilities"),
    _own("isotonic_val", "a rising function of each class's probability"),
    _own("histogram_val", "the share of right images in bins of each class's probability"),
)
"""In the order in which they are explained."""

LOSSES = ("mixup", "label_smoothing", "focal")

BY_NAME = {method.name: method for method in METHODS}

FIGURE_2 = ("raw", "ts_train", "mixup", "label_smoothing", "focal", "mts", "ts_val")
"""The methods of Figure 2, and the reference."""

FDNN_METHODS = ("raw", "ts_val", "mixup", "label_smoothing", "focal", "mts")
"""The columns of Table 2; TS and MTS are fitted on real ``val``, which MTS masks."""


def method_cell(found: Collected, stem: str, method: Method, name: str, where: Mapping[str, Any]) -> Cell:
    """Return a metric of a method on the networks that ``where`` tells."""
    if method.name == TUNED:
        return make_cell(method.metric(name), tuned(found, where))
    return found.cell(stem_of(method, stem), method.metric(name), {**where, **method.where})


def stem_of(method: Method, stem: str) -> str:
    """Return the stem of the study in which a method's trials are, beside those of ``stem``."""
    return "losses" if method.name in LOSSES and stem != "fdnn" else stem


def tuned(found: Collected, where: Mapping[str, Any]) -> list[Run]:
    """Return each seed's trial of the mask ratios' study with the lowest ``val/nll``, which real labels tell."""
    best: dict[int, Run] = {}
    for run in found.select("mask_ratio", where):
        if run.gap is None:
            present = best.setdefault(run.seed, run)
            if (run.trial.metrics or {})["val/nll"] < (present.trial.metrics or {})["val/nll"]:
                best[run.seed] = run
    return [best[seed] for seed in sorted(best)]


def real_labels(method: Method, backbone: str, val_images: int | None) -> int | None:
    """Return how many real labelled images a method was fitted or chosen on, beside the training set itself.

    None where it was on ``val`` and nobody knows any more how many that has.

    Args:
        method: The calibration.
        backbone: What its networks were trained on; MTS of ``full`` masks ``val``.
        val_images: How many images ``val`` has; None: unknown.
    """
    if method.name == TUNED:
        return val_images
    if method.name not in CALIBRATIONS or not real_labels_used(
        method.name, 1, full_data=not BACKBONES[backbone].distills
    ):
        return 0
    return val_images
