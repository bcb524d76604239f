"""The scoreboard: its studies are run where they are missing, recipes chosen between them, and the board written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.drawings import Drawings
from ddcal.analysis.report.page import Page
from ddcal.analysis.report.progress import ReportProgress
from ddcal.analysis.report.running import check_settings, load_finished, run_missing, study_state
from ddcal.analysis.report.runs_table import FULL_SCALE, put_facts, put_runs
from ddcal.analysis.report.studies import ReportStudy
from ddcal.analysis.scoreboard.choice import CHOSEN_BY, Chosen, choose, val_number
from ddcal.analysis.scoreboard.files import write_csv, write_json, write_markdown
from ddcal.analysis.scoreboard.pictures import draw_paired, draw_plane
from ddcal.analysis.scoreboard.results import BoardResults, SetResults
from ddcal.analysis.scoreboard.studies import Board, BoardSet, cells_study, supposed
from ddcal.analysis.scoreboard.tables import put_calibrations, put_mts, put_paired, put_recipes, put_scores

FIGURES, TABLES = "figures", "tables"
"""Folders of the files beside the page."""

JSON, MARKDOWN = "scoreboard.json", "scoreboard.md"


@dataclass(frozen=True)
class Scoreboard:
    """What `scoreboard` has made.

    Attributes:
        page: The page's file.
        gaps: How many numbers and figures are missing on it.
        completed: Whether at least one trial behind it came to its end.
    """

    page: Path
    gaps: int
    completed: bool


def scoreboard(
    boards: Sequence[Board],
    output: Path,
    scale: str,
    progress: ReportProgress,
    *,
    debug: bool = False,
    address: str | None = None,
) -> Scoreboard:
    """Run what is missing and write ``index.html``, ``scoreboard.md`` and ``scoreboard.json``.

    First every set's recipes are run, then the cells with those that ``val`` has chosen, on all seeds.

    Args:
        boards: From `ddcal.analysis.scoreboard.studies.boards`.
        output: The folder of the page, the studies and their store.
        scale: Its name; all but ``gpu`` are marked as reduced.
        progress: Is told what happens.
        debug: As in `ddcal.study.run_study`.
        address: As in `ddcal.study.run_study`.

    Raises:
        BadInput: if the folder has studies of other settings, before anything is run.
        KeyboardInterrupt: on Ctrl-C; the same call goes on.
    """
    root = output.absolute()
    check_cells(boards, root)
    try:
        run_missing([study for board in boards for study in board.first], root, progress, debug=debug, address=address)
        progress.say(f"recipes are chosen by {CHOSEN_BY}; now the cells with these, on every seed")
        run_missing(chosen_cells(boards, root), root, progress, debug=debug, address=address)
    except KeyboardInterrupt:
        progress.stopped()
        raise
    progress.say("drawing")
    found = [collected(board, root) for board in boards]
    page = Page(f"Scoreboard of small sets: {', '.join(board.dataset for board in boards)}", root)
    _introduction(page, found, scale)
    drawings = Drawings(root / FIGURES, page)
    for board in found:
        _put_board(page, board, drawings, root, output, reduced=scale != FULL_SCALE)
    files = [write_markdown(found, root / MARKDOWN), write_json(found, root / JSON, output)]
    page.heading("The trials behind the numbers")
    page.text(
        "Every number above links to its trials: the number itself to the first, the small figures after it to the "
        "others. The last column hands a trial on as a folder that anyone can replay. Scores link to the trials of "
        f"their own set. All of it as data: `{output / files[1].name}`; as Markdown: `{output / files[0].name}`."
    )
    behind = [study for board in found for study in board.studies]
    put_runs(page, behind, output)
    return Scoreboard(page.write(), page.missing, any(study.completed for study in behind))


def check_cells(boards: Sequence[Board], root: Path) -> None:
    """Refuse cells of other settings before recipes are run for them; which recipe they have may not be known yet.

    Raises:
        BadInput: as `ddcal.analysis.report.running.check_settings`.
    """
    for one in (one for board in boards for one in board.sets):
        chosen = recipes_of(one, root) if study_state(one.recipes.config, root) == "finished" else {}
        check_settings(cells_study(one, chosen or supposed(one)).config, root, points=bool(chosen))


def recipes_of(one: BoardSet, root: Path) -> dict[str, Chosen]:
    """Return ``labels.source`` → recipe of a set, chosen on ``val`` among the trials that the output root has."""
    runs = [Run(study, trial) for study in load_finished([one.recipes.config.name], root) for trial in study.records]
    return choose([number for run in runs if (number := val_number(run)) is not None])


def chosen_cells(boards: Sequence[Board], root: Path) -> list[ReportStudy]:
    """Return the studies of all cells that have a recipe."""
    found = [(one, recipes_of(one, root)) for board in boards for one in board.sets]
    return [cells_study(one, chosen) for one, chosen in found if chosen]


def planned_studies(boards: Sequence[Board], root: Path) -> list[ReportStudy]:
    """Return all studies for a plan: where recipes are not chosen yet, cells with the longest of them."""
    studies = [study for board in boards for study in board.first]
    for one in (one for board in boards for one in board.sets):
        done = study_state(one.recipes.config, root) == "finished"
        studies.append(cells_study(one, (recipes_of(one, root) if done else None) or supposed(one)))
    return studies


def collected(board: Board, root: Path) -> BoardResults:
    """Return what the output root has of a dataset."""
    sets = []
    for one in board.sets:
        cells = load_finished([one.cells.config.name], root)
        runs = [Run(study, trial) for study in cells for trial in study.records]
        studies = [*load_finished([one.recipes.config.name], root), *cells]
        sets.append(SetResults(one, recipes_of(one, root), studies, runs))
    full = load_finished([board.full.config.name], root) if board.full else []
    return BoardResults(board.dataset, sets, [Run(study, trial) for study in full for trial in study.records], full)


def _introduction(page: Page, found: Sequence[BoardResults], scale: str) -> None:
    page.text(
        "Networks trained on small sets of images, the same images under hard labels (their classes) and soft ones "
        "(probabilities of experts that were trained on all images), raw and calibrated. The rate, the epochs and the "
        "temperature of soft labels are chosen for every set and kind of labels by the mean "
        f"`{CHOSEN_BY}` over seeds; no choice has seen a label of `test`. Then each cell is run on all of its seeds, "
        "and what follows is measured on `test`. ECE: top-1, 10 equal-width bins; TS: temperature scaling, "
        "cross-validated on the set's own images (`ts_cv`) or fitted on real labelled ones (`ts_val`, the reference); "
        "MTS: masked temperature scaling (`mts`)."
    )
    put_facts(page, [study for board in found for study in board.studies], scale)


def _put_board(page: Page, board: BoardResults, drawings: Drawings, root: Path, shown: Path, *, reduced: bool) -> None:
    page.heading(board.dataset)
    page.heading("Accuracy and scores", 3)
    put_scores(page, board)
    draw_plane(board, drawings, reduced)
    page.heading("Does a soft label beat a hard one on the same images?", 3)
    put_paired(page, board)
    draw_paired(board, drawings, reduced)
    page.heading("Calibration", 3)
    put_calibrations(
        page, board, "ece", "ECE on `test` in percent; bold: the lowest that is not fitted on real labels", 100.0, 1
    )
    put_calibrations(
        page, board, "nll", "NLL on `test` in nats; bold: the lowest that is not fitted on real labels", 1.0, 3
    )
    page.heading("Where MTS stands", 3)
    put_mts(page, board)
    page.heading("The recipes", 3)
    put_recipes(page, board)
    table = write_csv(board, root / TABLES / f"scoreboard-{board.dataset}.csv", shown)
    page.text(f"Every number with its trials and the command of its replay: `{shown / TABLES / table.name}`.", "note")
