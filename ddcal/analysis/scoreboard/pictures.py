"""What the pictures of a scoreboard show of its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.analysis.figures.scoreboard_figures import Point, SetPoints, plot_paired, plot_plane
from ddcal.analysis.labels import method_label
from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.drawings import Drawings, Drawn
from ddcal.analysis.scoreboard.measured import Measured
from ddcal.analysis.scoreboard.results import CALIBRATIONS, HARD, LABELS, SOFT, BoardResults, SetResults
from ddcal.analysis.scoreboard.tables import compared, labels_of, paired
from ddcal.statistics import MARKED_SEEDS

if TYPE_CHECKING:
    import pandas


def draw_plane(board: BoardResults, drawings: Drawings, reduced: bool) -> None:
    """Put accuracy against ECE on the page, a panel a calibration."""

    def draw() -> Drawn:
        panels = [(method_label(name), [_points(one, name) for one in board.sets]) for name in CALIBRATIONS]
        soft = [one.one.row.title for one in board.sets if one.soft_itself]
        caption = (
            "Accuracy against ECE on the test images, mean and 95 % interval over seeds; a line leads from a set's "
            "hard labels (filled) to the soft ones on the same images (open)"
            + (f"; {', '.join(soft)}: labels of its own (filled) that are soft too" if soft else "")
            + ". Down and to the right is better; intervals may leave the frame. "
            "`ts_val` is fitted on real labels of `val`, the others on none beyond the training images; recipes are "
            "chosen on `val` for all."
        )
        figure = plot_plane(panels, title=f"Scoreboard: {board.dataset}", reduced=reduced)
        return Drawn(figure, _plane_frame(board), caption)

    alt = f"Accuracy against ECE on {board.dataset}, a marker a set, filled for hard and open for soft labels"
    drawings.put(f"plane-{board.dataset}", alt, cell_runs(board), draw, words=_titles(board))


def draw_paired(board: BoardResults, drawings: Drawings, reduced: bool) -> None:
    """Put soft less hard labels on the page, a panel a number."""

    def draw() -> Drawn:
        each = [paired(one) for one in board.sets]
        names = {"accuracy": "accuracy", **{f"ece/{name}": f"ECE, {method_label(name)}" for name in CALIBRATIONS}}
        columns = [(title, [_point(found[name]) for found in each]) for name, title in names.items()]
        caption = (
            "Soft less hard labels on the same images, each with its own recipe: mean and 95 % interval over seeds; "
            f"filled where that of {MARKED_SEEDS} seeds or more does not hold 0. Accuracy: above 0 soft labels are "
            "better; ECE: below 0."
        )
        figure = plot_paired(list(map(compared, board.sets)), columns,
                             title=f"Soft against hard labels: {board.dataset}", reduced=reduced)  # fmt: skip
        return Drawn(figure, _paired_frame(board), caption)

    alt = f"Differences of soft from hard labels on {board.dataset}, a row a set and a panel a number"
    drawings.put(f"soft-hard-{board.dataset}", alt, cell_runs(board), draw, words=_titles(board))


def cell_runs(board: BoardResults) -> list[Run]:
    """Return the trials of all cells that have come to their end."""
    return [run for one in board.sets for run in one.runs if run.gap is None]


def _titles(board: BoardResults) -> list[str]:
    return [one.one.row.title for one in board.sets]


def _points(one: SetResults, calibration: str) -> SetPoints:
    both = {}
    for labels in LABELS:
        x, y = _point(one.accuracy(labels)), _point(one.number(labels, calibration, "ece"))
        both[labels] = None if x is None or y is None else (x, y)
    return SetPoints(one.one.row.title, both[HARD], both[SOFT])


def _point(value: Measured) -> Point | None:
    if value.mean is None:
        return None
    low, high = value.interval or (value.mean, value.mean)
    return Point(100.0 * value.mean, 100.0 * low, 100.0 * high, value.sign != 0)


def _row(what: dict[str, Any], value: Measured) -> dict[str, Any]:
    low, high = value.interval or (None, None)
    return what | {"mean": value.mean, "low_95": low, "high_95": high, "seeds": len(value.values)}


def _plane_frame(board: BoardResults) -> pandas.DataFrame:
    import pandas

    rows = []
    for one in board.sets:
        for labels in LABELS:
            what = {"set": one.one.name, "labels": labels_of(one, labels)}
            rows.append(_row(what | {"number": "accuracy"}, one.accuracy(labels)))
            rows += [_row(what | {"number": f"ece/{name}"}, one.number(labels, name, "ece")) for name in CALIBRATIONS]
    return pandas.DataFrame(rows)


def _paired_frame(board: BoardResults) -> pandas.DataFrame:
    import pandas

    rows = [
        _row({"set": one.one.name, "number": name}, value) for one in board.sets for name, value in paired(one).items()
    ]
    return pandas.DataFrame(rows)
