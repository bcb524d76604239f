"""Rows of the report's tables: a cell of our numbers beside the published one, for the page, a file and a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.analysis.labels import REDUCED_NOTE
from ddcal.analysis.report.cells import Cell
from ddcal.analysis.report.page import Number

if TYPE_CHECKING:
    import pandas

PERCENT = ("accuracy", "ece")
"""Metrics that are written in percent."""


@dataclass(frozen=True)
class Row:
    """A number with all that tells what it is.

    Attributes:
        dataset: Its dataset.
        backbone: What the networks were trained on; ``full`` for all real images.
        ipc: Images per class; None for full data.
        method: The calibration, by name.
        label: The same for people.
        cell: Our number.
        real_labels: Real labelled images that the calibration used; None where that is no question.
    """

    dataset: str
    backbone: str
    ipc: int | None
    method: str
    label: str
    cell: Cell
    real_labels: int | None = None

    @property
    def measured(self) -> str:
        """The last part of the metric's name: ``ece``, ``nll``, ``accuracy``."""
        return self.cell.metric.rpartition("/")[2]

    @property
    def scale(self) -> float:
        """What the metric is multiplied by where people read it."""
        return 100.0 if self.measured in PERCENT else 1.0


def number(row: Row, *, interval: bool = False, strong: bool = False) -> Number:
    """Return a row's number for the page: mean ± standard deviation over seeds, or with its 95 % interval."""
    cell, scale = row.cell, row.scale
    digits = 2 if scale == 100.0 else 3
    if cell.mean is None:
        return Number("–", (), cell.gaps or ("not run",))
    text = f"{scale * cell.mean:.{digits}f}"
    if interval and cell.interval is not None:
        low, high = cell.interval
        text += f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    elif not interval and cell.std is not None:
        text += f" ± {scale * cell.std:.{digits}f}"
    return Number(text, cell.runs, cell.gaps, strong)


def labels_used(row: Row) -> str:
    """Return how many real labels a row's method has used, for a table; a dash where that is unknown."""
    return "–" if row.real_labels is None else f"{row.real_labels:,}"


def run_frame(rows: Sequence[Row]) -> pandas.DataFrame:
    """Return the rows' trials as `ddcal.analysis.paper_tables.beside_published` takes them: a row a trial.

    A trial's number is the mean over its ``networks``.
    """
    import pandas

    names = ["dataset", "backbone", "ipc", "method", "seed", "networks", "value"]
    found = [
        {
            "dataset": row.dataset,
            "backbone": row.backbone,
            "ipc": row.ipc,
            "method": row.method,
            "seed": run.seed,
            "networks": run.trial.config.train.networks,
            "value": value,
        }
        for row in rows
        for run, value in zip(row.cell.runs, row.cell.values, strict=True)
    ]
    return pandas.DataFrame(found, columns=names)


def write_rows(rows: Sequence[Row], path: Path, *, reduced: bool, published: Sequence[float | None]) -> Path:
    """Write rows as CSV: numbers as the ledger has them, without rounding and not in percent; return the path.

    Args:
        rows: Of a table.
        path: The file.
        reduced: Whether the scale is not the paper's.
        published: The published number of each row in percent; None where there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["dataset", "backbone", "ipc", "method", "metric", "mean", "std", "low_95", "high_95", "seeds"]
    names += ["real_labels", "published_percent", "trials", "gaps", "note"]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=names)
        writer.writeheader()
        for row, theirs in zip(rows, published, strict=True):
            low, high = row.cell.interval or (None, None)
            writer.writerow(
                {
                    "dataset": row.dataset,
                    "backbone": row.backbone,
                    "ipc": row.ipc,
                    "method": row.method,
                    "metric": row.cell.metric,
                    "mean": row.cell.mean,
                    "std": row.cell.std,
                    "low_95": low,
                    "high_95": high,
                    "seeds": len(row.cell.runs),
                    "real_labels": row.real_labels,
                    "published_percent": theirs,
                    "trials": " ".join(run.trial.trial_key for run in row.cell.runs),
                    "gaps": "; ".join(row.cell.gaps),
                    "note": REDUCED_NOTE if reduced else "",
                }
            )
    return path
