"""A scoreboard as files: every number with its trials as CSV and JSON, and the board as Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ddcal.analysis.labels import method_label
from ddcal.analysis.report.runs_table import replay_command
from ddcal.analysis.scoreboard.choice import CHOSEN_BY
from ddcal.analysis.scoreboard.measured import Measured
from ddcal.analysis.scoreboard.results import CALIBRATIONS, LABELS, BoardResults
from ddcal.analysis.scoreboard.tables import SCORES, labels_of, mts_differences, paired, score_numbers, written

NUMBERS = ("ece", "nll")


def records(board: BoardResults, shown: Path) -> Iterator[dict[str, Any]]:
    """Yield every number of a board: what it is of, mean, interval, the value of every seed, trials and replay.

    Args:
        board: One dataset.
        shown: The output root as the user gave it, for the commands.
    """
    yield _record(board, "full", "all training images", "", "hard", "accuracy", board.full_accuracy, shown)
    for one in board.sets:
        what = (one.one.name, one.one.row.title, one.one.row.kind)
        for labels in LABELS:
            name = labels_of(one, labels)
            for metric, value in score_numbers(board, one, labels).items():
                yield _record(board, *what, name, metric, value, shown)
            for metric in NUMBERS:
                for calibration in CALIBRATIONS:
                    value = one.number(labels, calibration, metric)
                    yield _record(board, *what, name, f"{metric}/{calibration}", value, shown)
            for other, value in mts_differences(one, labels).items():
                yield _record(board, *what, name, f"ece/mts less {other}", value, shown)
        differing = "by experts less its own" if one.soft_itself else "soft less hard"
        for metric, value in paired(one).items():
            yield _record(board, *what, differing, metric, value, shown)


def _record(
    board: BoardResults, name: str, title: str, kind: str, labels: str, metric: str, value: Measured, shown: Path
) -> dict[str, Any]:
    low, high = value.interval or (None, None)
    first = next(iter(value.runs), None)
    return {
        "dataset": board.dataset,
        "set": name,
        "title": title,
        "kind": kind,
        "labels": labels,
        "number": metric,
        "mean": value.mean,
        "low_95": low,
        "high_95": high,
        "seeds": len(value.values),
        "values": [value.values[seed] for seed in sorted(value.values)],
        "of_seeds": sorted(value.values),
        "trials": list(dict.fromkeys(run.trial.trial_key for run in value.runs)),
        "replay": "" if first is None else replay_command(first, shown / first.study.directory.name),
        "gaps": list(value.gaps),
    }


def write_csv(board: BoardResults, path: Path, shown: Path) -> Path:
    """Write `records` as CSV, fractions without rounding, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(records(board, shown))
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        for row in rows:
            lists = {name: " ".join(map(str, row[name])) for name in ("values", "of_seeds", "trials")}
            writer.writerow(row | lists | {"gaps": "; ".join(row["gaps"])})
    return path


def write_json(boards: Sequence[BoardResults], path: Path, shown: Path) -> Path:
    """Write the recipes that were chosen and every number as JSON, and return the path."""
    found = {
        board.dataset: {
            "chosen_by": CHOSEN_BY,
            "recipes": [
                {
                    "set": one.one.name,
                    "labels": labels_of(one, labels),
                    "recipe": dict(chosen.recipe),
                    CHOSEN_BY: chosen.value,
                    "second": chosen.second,
                    "tried": chosen.others + 1,
                    "seeds": chosen.seeds,
                }
                for one in board.sets
                for labels, source in LABELS.items()
                if (chosen := one.chosen.get(source)) is not None
            ],
            "numbers": list(records(board, shown)),
        }
        for board in boards
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def write_markdown(boards: Sequence[BoardResults], path: Path) -> Path:
    """Write the board as Markdown, a table a dataset, and return the path."""
    lines = ["# Scoreboard", "", "Mean [95 % interval of the mean over seeds], in percent; NLL in nats.", ""]
    heads = [
        *("set", "labels"),
        *(head for head, _ in SCORES.values()),
        *(f"{metric.upper()} {method_label(name)}" for metric in NUMBERS for name in CALIBRATIONS),
        "seeds",
    ]
    for board in boards:
        lines += [f"## {board.dataset}", "", f"| {' | '.join(heads)} |", f"|{'-|' * len(heads)}"]
        full = ["all training images", "hard", written(board.full_accuracy, 100.0, 1)]
        lines.append(f"| {' | '.join([*full, *['–'] * (len(heads) - 4), str(len(board.full_accuracy.values))])} |")
        for one in board.sets:
            for labels in LABELS:
                scores = score_numbers(board, one, labels)
                cells = [written(scores[name], scale, 1) for name, (_, scale) in SCORES.items()]
                for metric in NUMBERS:
                    scale, digits = (100.0, 1) if metric == "ece" else (1.0, 3)
                    cells += [written(one.number(labels, name, metric), scale, digits) for name in CALIBRATIONS]
                seeds = str(len(scores["accuracy"].values))
                title = one.one.row.title.replace("|", "\\|")
                lines.append(f"| {' | '.join([title, labels_of(one, labels), *cells, seeds])} |")
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
