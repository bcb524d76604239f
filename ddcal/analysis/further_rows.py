"""What ``evaluate.also`` and ``evaluate.shift`` measured of a trial: tables for the terminal and the study's page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ddcal.config.calibrations import reported
from ddcal.study.record.results import Trial

SETS = ("thr", "aps", "raps")
STRONGEST = 5


@dataclass(frozen=True)
class FurtherTable:
    """A table.

    Attributes:
        title: What it is of.
        columns: Their heads.
        rows: Cells, as they are shown.
        words: How many columns at the left are words; the others are numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    words: int = 1


def further_tables(trial: Trial) -> list[FurtherTable]:
    """Return what was asked for beyond the usual metrics, on ``test``; nothing of a trial that asked for nothing."""
    return [table for table in _tables(trial) if table.rows]


def _tables(trial: Trial) -> Iterator[FurtherTable]:
    metrics, config = trial.metrics or {}, trial.config
    names = {name: f"test/{prefix}" for name, prefix in reported(config.calibrate.method).items()}

    def rows(endings: tuple[str, ...]) -> list[list[str]]:
        found = []
        for name, prefix in names.items():
            values = [metrics.get(f"{prefix}{ending}") for ending in endings]
            if None not in values:
                found.append([name, *(f"{value:.4f}" for value in values)])
        return found

    sets = tuple(f"{kind}_{what}" for kind in SETS for what in ("coverage", "size"))
    yield FurtherTable(
        f"prediction sets on test that are to hold the right class with a probability of {config.evaluate.coverage:g}: "
        "the share that does, and the mean number of classes",
        ("calibration", *(f"{kind.upper()} {what}" for kind in SETS for what in ("coverage", "size"))),
        rows(sets),
    )
    yield FurtherTable(
        "parts of the ECE on test: bins that are too confident, and the others",
        ("calibration", "over-confidence", "under-confidence"),
        rows(("over_confidence", "under_confidence")),
    )
    disagreement = metrics.get("test/disagreement")
    networks = config.train.networks
    together = f"{networks} networks" if networks > 1 else "1 network"
    told = disagreement is not None and networks > 1
    apart = f"; two of them disagree on {disagreement:.4f} of the images" if told else ""
    yield FurtherTable(
        f"the mean of the probabilities of {together} on test{apart}",
        ("calibration", "ECE", "NLL", "accuracy"),
        rows(("ensemble/ece", "ensemble/nll", "ensemble/accuracy")),
    )
    yield from _shift_tables(trial, names)


def _shift_tables(trial: Trial, names: dict[str, str]) -> Iterator[FurtherTable]:
    metrics, asked = trial.metrics or {}, trial.config.evaluate.shift
    corruptions = sorted(set(asked.corruptions))
    shown = {"clean": "as they are"}
    for corruption in corruptions:
        shown |= {corruption: f"{corruption}, mean of 1 to {STRONGEST}"}
        shown |= {f"{corruption}-{STRONGEST}": f"{corruption} {STRONGEST}"}
    shown |= {"all": "mean of all"}
    cells = []
    for kind, words in shown.items():
        values = [metrics.get(f"test/shift/{kind}/accuracy")]
        values += [metrics.get(f"{prefix}shift/{kind}/ece") for prefix in names.values()]
        if None not in values:
            cells.append([words, *(f"{value:.4f}" for value in values)])
    yield FurtherTable(
        f"corrupted test images, at most {asked.images} of them",
        ("images", "accuracy", *(f"ECE {name}" for name in names)),
        cells,
    )
    labels = dict.fromkeys(name.split("/")[2] for name in metrics if name.startswith("test/ood/"))
    scores = {name: (f"{prefix}ood/", "") for name, prefix in names.items()} | {"energy": ("test/raw/ood/", "energy/")}
    yield FurtherTable(
        "other data told from test by the largest probability, or by the energy of the logits",
        ("other data", "score", "AUROC", "FPR at 95 % TPR"),
        [
            [label, name, *(f"{metrics[f'{before}{label}/{after}{what}']:.4f}" for what in ("auroc", "fpr95"))]
            for label in labels
            for name, (before, after) in scores.items()
            if f"{before}{label}/{after}auroc" in metrics
        ],
        words=2,
    )
