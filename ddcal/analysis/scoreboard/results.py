"""What a dataset's studies have found: the numbers of every cell, as far as they were run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddcal.analysis.report.cells import Run, make_cell
from ddcal.analysis.scoreboard.choice import SOURCE, Chosen
from ddcal.analysis.scoreboard.measured import Measured, constant, derived, measured
from ddcal.analysis.scoreboard.scores import augmentation_robust_score, label_robust_score
from ddcal.analysis.scoreboard.studies import RANDOM, BoardSet
from ddcal.study.record.results import StudyResults

HARD, SOFT = "hard", "soft"
LABELS = {HARD: "set", SOFT: "experts"}
"""Names of labels → ``labels.source``."""

AUGMENTED, PLAIN = "dsa", "none"
"""``train.augment`` of the cells, and of those that the augmentation-robust score is held against."""

CALIBRATIONS: Mapping[str, tuple[str, str]] = {
    "raw": ("mts", "raw/"),
    "ts_cv": ("ts_cv", ""),
    "mts": ("mts", ""),
    "ts_val": ("mts", "ts_val/"),
}
"""Calibration → the method of the trials that have it, and where it stands among their metrics."""


@dataclass(frozen=True)
class SetResults:
    """One set of a board.

    Attributes:
        one: The set.
        chosen: ``labels.source`` → the recipe of its cells.
        studies: Those of its recipes and cells, as far as they were begun.
        runs: The trials of its cells.
    """

    one: BoardSet
    chosen: Mapping[str, Chosen]
    studies: Sequence[StudyResults]
    runs: Sequence[Run]

    def number(self, labels: str, calibration: str, metric: str, augment: str = AUGMENTED) -> Measured:
        """Return a metric on ``test`` of a cell.

        Args:
            labels: `HARD` or `SOFT`.
            calibration: One of `CALIBRATIONS`.
            metric: ``accuracy``, ``ece``, ``nll`` and the like.
            augment: ``train.augment`` of the cell.
        """
        method, place = CALIBRATIONS[calibration]
        where = {SOURCE: LABELS[labels], "train.augment": augment}
        runs = [
            run
            for run in self.runs
            if where.items() <= run.trial.values.items() and run.settings["calibrate.method"] == method
        ]
        found = measured(make_cell(f"test/{place}{metric}", sorted(runs, key=lambda run: run.seed)))
        if not found.values and not found.gaps:
            reason = "not run" if LABELS[labels] in self.chosen else "no trial of its recipes has come to its end"
            return Measured({}, (), (f"{self.one.row.title}, {labels} labels, augment {augment}: {reason}",))
        return found

    @property
    def soft_itself(self) -> bool:
        """Whether the labels that came with the set are probabilities."""
        source = LABELS[HARD]
        return any(run.trial.config.soft_labels for run in self.runs if run.trial.values[SOURCE] == source)

    def accuracy(self, labels: str, augment: str = AUGMENTED) -> Measured:
        """Return the accuracy of a cell, which no calibration here changes."""
        return self.number(labels, "raw", "accuracy", augment)


@dataclass(frozen=True)
class BoardResults:
    """All of one dataset.

    Attributes:
        dataset: Its name.
        sets: In the order of the tables.
        full: Trials on all real images.
        full_studies: Their study.
    """

    dataset: str
    sets: Sequence[SetResults]
    full: Sequence[Run] = ()
    full_studies: Sequence[StudyResults] = ()

    @property
    def random(self) -> SetResults:
        """The random images, the scores' reference."""
        return next(one for one in self.sets if one.one.row.kind == RANDOM)

    @property
    def full_accuracy(self) -> Measured:
        """The accuracy of networks on all real images."""
        return measured(make_cell("test/raw/accuracy", self.full))

    @property
    def studies(self) -> list[StudyResults]:
        """Every study."""
        return [*self.full_studies, *(study for one in self.sets for study in one.studies)]

    def label_robust(self, one: SetResults, labels: str) -> Measured:
        """Return the label-robust score of a set under these labels, seed by seed.

        The accuracy on all real images counts as one number, its mean over seeds, as in DD-Ranking's package.
        """
        if one.soft_itself:
            reason = "its own labels are soft, and hard label recovery is of hard ones"
            return Measured({}, (), (f"{one.one.row.title}: {reason}",))
        hard, any_, random = one.accuracy(HARD), one.accuracy(labels), self.random.accuracy(labels)
        full = constant(self.full_accuracy, sorted(any_.values))
        return derived(label_robust_score, [full, hard, any_, random], runs=any_.runs, low=0.0, high=1.0)

    def augmentation_robust(self, one: SetResults, labels: str) -> Measured:
        """Return the augmentation-robust score of a set under these labels, seed by seed."""
        parts = [each.accuracy(labels, augment) for augment in (AUGMENTED, PLAIN) for each in (one, self.random)]
        return derived(augmentation_robust_score, parts, runs=one.accuracy(labels, PLAIN).runs, low=0.0, high=1.0)
