"""A trial's calibrations beside each other: what the terminal and the study's page show of it."""

from __future__ import annotations

from dataclasses import dataclass

from ddcal.config.calibrations import reported
from ddcal.config.checks.notes import probe_bins
from ddcal.study.record.results import Trial

TEACHER = "teacher"
"""The experts that gave the labels: no calibration of the networks, but what they are to answer like."""


@dataclass(frozen=True)
class CalibrationRow:
    """One calibration of a trial: means over its networks.

    Attributes:
        name: Of the calibration.
        ece: Expected calibration error.
        nll: Negative log-likelihood.
        accuracy: Share of the images that are classified right.
        own: Whether it is the trial's own.
        worse: Whether its NLL is above that of the networks without calibration.
        teacher: Whether it is no calibration, but the experts that gave the labels.
    """

    name: str
    ece: float
    nll: float
    accuracy: float
    own: bool
    worse: bool
    teacher: bool = False

    @property
    def notes(self) -> list[str]:
        """What is to be said of it."""
        said = {"this trial": self.own, "worse NLL than raw": self.worse, "gave the labels": self.teacher}
        return [words for words, true in said.items() if true]


def calibration_rows(trial: Trial) -> tuple[str, list[CalibrationRow]]:
    """Return what a table of a trial's calibrations is of, in words, and its rows: raw, ts_train, its own, ts_val.

    A set that was distilled alone has a row of its probe, which is not calibrated.
    """
    metrics = trial.metrics or {}
    bins, method = trial.config.evaluate.bins, trial.config.calibrate.method
    if "test/ece" not in metrics:
        ece, nll, accuracy = (metrics.get(f"val/{metric}") for metric in ("ece", "nll", "accuracy"))
        shown = probe_bins(bins)
        title = f"on val, the probe of the distilled set (one short network, not calibrated), {shown} bins"
        if ece is None or nll is None or accuracy is None:
            return title, []
        return title, [CalibrationRow("probe", ece, nll, accuracy, own=False, worse=False)]
    networks = trial.config.train.networks
    noise = metrics.get("test/ece_noise_floor")
    title = f"on test, mean of {networks} network{'s' * (networks != 1)}, {bins} bins"
    raw = metrics.get("test/raw/nll")
    rows = []
    for name, prefix in (reported(method) | {TEACHER: f"{TEACHER}/"}).items():
        ece, nll, accuracy = (metrics.get(f"test/{prefix}{metric}") for metric in ("ece", "nll", "accuracy"))
        if ece is None or nll is None or accuracy is None:
            continue
        teacher = name == TEACHER
        worse = raw is not None and nll > raw and not teacher
        rows.append(CalibrationRow(name, ece, nll, accuracy, not prefix, worse, teacher))
    return title + (f"; ECE noise floor {noise:.4f}" if noise is not None else ""), rows
