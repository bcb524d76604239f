"""What a person reads of a study: how far it is, its summary at the end, and tables of what it has found."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ddcal.analysis.calibration_rows import calibration_rows
from ddcal.analysis.further_rows import further_tables
from ddcal.cli.sheets import Sheet
from ddcal.cli.status_words import status_table
from ddcal.config.own import replay_with
from ddcal.errors import printable
from ddcal.study.mlflow.client import server_address
from ddcal.study.record.chance import chance_warning
from ddcal.study.record.confirmation import confirm_command, confirmed_words, standing
from ddcal.study.record.results import WINNER_METRIC, StudyResults, Trial
from ddcal.study.record.status import Status, finished_words

if TYPE_CHECKING:
    from ddcal.pipeline.upkeep import Listed
    from ddcal.study.export.replay import Comparison
    from ddcal.study.run.confirm import Confirmed
    from ddcal.study.search.importance import Importance


class PlainConsole(Console):
    """A console that spells out control characters: what a ledger or a store says is anybody's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of text of an object, without what a terminal would obey."""
        for piece in super().render(renderable, options):
            plain = piece.control or piece.text.isprintable()
            yield piece if plain else Segment(printable(piece.text), piece.style)


def make_console(stderr: bool = False) -> Console:
    """Return a console that wraps on a terminal alone: lines in a file or a pipe stay whole."""
    plain: dict[str, Any] = {
        "stderr": stderr,
        "highlight": False,
        "markup": False,
        "emoji": False,
    }  # paths have brackets
    console = PlainConsole(**plain)
    return console if console.is_terminal else PlainConsole(**plain, width=200)


def print_summary(results: StudyResults, console: Console) -> None:
    """Print a study's outcome: counts, the winner's calibrations on test, where the files are, what comes next."""
    summary = results.summary()
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary["outcomes"].items()))
    cache = summary["cache"]
    console.print(
        f"\n{counts} in {summary['seconds']:.0f} s; the store saved {cache['saved_seconds']:.0f} s of computing"
        + (f" ({cache['saved_gpu_seconds']:.0f} GPU-seconds)" if cache["saved_gpu_seconds"] >= 0.5 else "")
        + (
            f"; waited {cache['waited_seconds']:.1f} s for stages that others computed"
            if cache["waited_seconds"] >= 0.05
            else ""
        )
    )
    if results.ending and not results.ending.startswith("search.trials"):
        console.print(f"ended: {results.ending}", markup=False)
    if results.unsent:
        print_command(
            f"MLflow does not have everything yet ({results.unsent} bytes of the ledger wait); to send it",
            f"ddcal sync {shlex.quote(shown_path(results.directory))}",
            console,
        )
    best = results.best
    if best is None:
        console.print(results.no_winner, markup=False)
        _print_files(results, console)
        return
    front = ", ".join(str(trial.number) for trial in results.pareto)
    console.print(
        f"winner: {best.trial_key} (lowest val/nll of the Pareto front: trials {front}; "
        f"{confirmed_words(results.confirmed(best))})"
    )
    for name, value in best.values.items():
        console.print(f"  {name:<24} {value:.4g}" if isinstance(value, float) else f"  {name:<24} {value}")
    console.print(calibration_table(best))
    for table in further_tables(best):
        console.print(Sheet(table.title, table.columns, table.rows, table.columns[table.words :]))
    if warning := chance_warning(best):
        console.print(f"warning: {warning}", soft_wrap=not console.is_terminal)
    _print_files(results, console)


def print_finished(results: StudyResults, status: Status, console: Console) -> None:
    """Say that a study that is to go on has ended, how it is extended, and print its outcome."""
    console.print(f"{status.study} has ended: {finished_words(status)}")
    folder = shlex.quote(shown_path(results.directory))
    if results.confirms is not None:
        command = confirm_command(Path(shown_path(results.directory)), results.confirms)
        print_command("for more leaders or fresh seeds", f"{command} --top N --seeds N", console)
    elif status.finished < status.trials:
        console.print(
            f"it is not extended by more trials, as it ended so: {status.ending}. Its study.yaml under another name, "
            "with another limit or space, finds its finished stages in the store"
        )
    elif status.points is not None and status.finished >= status.points:
        console.print(
            f"it is not extended by more trials: every one of the {status.points} points of its space was tried"
        )
    else:
        print_command("for more trials", f"ddcal resume {folder} --trials {2 * status.trials}", console)
    if status.unsent:
        print_command(f"MLflow lacks the last {status.unsent} events; to send them", f"ddcal sync {folder}", console)
    print_summary(results, console)


def print_status(status: Status, console: Console) -> None:
    """Print how far a study is."""
    console.print(f"{status.study}: {status.state}; {finished_words(status)}")
    if status.ending is not None:
        console.print(f"ended: {status.ending}")
    console.print(status_table(status, console.width))
    if status.warning:
        console.print(f"warning: {status.warning}", soft_wrap=not console.is_terminal)
    if status.next_command:
        print_command("go on with it", status.next_command, console)


def calibration_table(trial: Trial) -> Sheet:
    """Return raw, ts_train, the trial's own calibration, ts_val and a teacher on test, with the ECE's noise floor."""
    title, found = calibration_rows(trial)
    rows = []
    for row in found:
        note = ("<- " if row.own else "") + " ".join(row.notes)
        rows.append([row.name, f"{row.ece:.4f}", f"{row.nll:.4f}", f"{row.accuracy:.4f}", note])
    numbers = ("ECE", "NLL", "accuracy")
    return Sheet(title, ("calibration", *numbers, ""), rows, numbers)


def pareto_table(results: StudyResults) -> Sheet:
    """Return the front, the winner marked: searched values and objectives."""
    metrics = dict.fromkeys((*results.study.objectives, WINNER_METRIC))
    best, rows = results.best, []
    for trial in results.pareto:
        mark = " (winner)" if best is not None and trial.number == best.number else ""
        shown = [trial.values.get(name, "") for name in results.study.space]
        shown += [(trial.metrics or {}).get(name, "") for name in metrics]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in shown]
        rows.append([trial.trial_key + mark, *cells])
    return Sheet(f"{results.study.name}: Pareto front", ("trial", *results.study.space, *metrics), rows)


def print_confirmation(found: list[Confirmed], results: StudyResults, console: Console) -> None:
    """Print what the search reported beside the mean over fresh seeds, a table a leader, and what that says."""
    best = results.best
    for leader in dict.fromkeys(one.trial_key for one in found):
        rows = [one for one in found if one.trial_key == leader]
        mark = " (winner)" if best is not None and leader == best.trial_key else ""
        cells = [
            [one.metric, f"{one.searched:.4f}", f"{one.mean:.4f}", f"{one.low:.4f}–{one.high:.4f}", one.verdict]
            for one in rows
        ]
        columns = ("metric", "search", "mean", "95 % interval", "verdict")
        title = f"{leader}{mark} on {rows[0].seeds} fresh seeds"
        console.print(Sheet(title, columns, cells, ("search", "mean"), packed=True))
    console.print("intervals: of the mean, Student's t over seeds, cut to what is possible")
    if best is None:
        return
    if first := standing([asdict(one) for one in found], best.trial_key, WINNER_METRIC):
        console.print(first)


def importance_table(found: list[Importance]) -> Sheet:
    """Return the importance of every name, objective by objective."""
    rows = []
    for one in found:
        share = one.without_share if one.share is None else f"{one.share:.3f}"
        interval = "" if one.low is None else f"{one.low:.2f} to {one.high:.2f}"
        rows.append([one.objective, one.name, share, interval, one.better or "", str(one.trials), one.where])
    columns = ("objective", "name", "share", "82 % interval", "better", "trials", "active where")
    right = ("share", "82 % interval", "trials")
    return Sheet("share of the variance explained (fANOVA)", columns, rows, right, heads=2, packed=True)


def studies_table(found: dict[str, dict[str, str]]) -> Sheet:
    """Return studies beside each other, a study a column: label → fact → text."""
    columns = ("", *next(iter(found.values()), {}))
    return Sheet("", columns, [[label, *facts.values()] for label, facts in found.items()], sideways=True)


def store_table(entries: list[Listed], references: dict[str, set[str]]) -> Sheet:
    """Return what is in a store."""
    total = sum(entry.bytes for entry in entries) / 1e6
    rows = []
    for entry in entries:
        published = datetime.fromtimestamp(entry.created).strftime("%Y-%m-%d %H:%M")
        who = ", ".join(sorted(Path(folder).name for folder in references.get(entry.key, ())))
        cells = (f"{entry.bytes / 1e6:.2f}", f"{entry.seconds:.1f}", published, entry.what, who)
        rows.append([entry.stage, entry.key[:12], *cells])
    columns = ("stage", "key", "MB", "seconds", "published", "what", "referred to by")
    title = f"{len(entries)} artefacts, {total:.1f} MB"
    return Sheet(title, columns, rows, ("MB", "seconds"), heads=2, packed=True)


def comparison_table(comparisons: list[Comparison], everything: bool) -> Sheet:
    """Return recorded beside replayed; only what differs, or the main metrics and every artefact if nothing does."""
    rows = []
    for item in comparisons:
        main = "/" in item.name and item.name.count("/") == 1
        if everything or not item.same or main:
            same = "not compared" if not item.compared else "equal" if item.same else "DIFFERS"
            rows.append([item.name, _short(item.recorded), _short(item.replayed), f"{item.tolerance:g}", same])
    return Sheet("replay", ("what", "recorded", "replayed", "tolerance", ""), rows, packed=True)


def print_command(words: str, command: str, console: Console) -> None:
    """Print what a command is for, and on a line of its own the command, which no console wraps: it can be copied."""
    console.print(f"{words}:")
    console.print(f"  {command}", soft_wrap=True)


def _print_files(results: StudyResults, console: Console) -> None:
    directory = shown_path(results.directory)
    console.print(f"\nfiles in {directory}: trials.csv, pareto.csv, summary.json; a log of every trial in logs/")
    if results.best is not None:
        folder, to = shlex.quote(directory), shlex.quote(f"best-{results.study.name}")
        again = replay_with(results.best.config)
        print_command(
            "hand the winner on, and run it again", f"ddcal export {folder} --to {to} && {again} {to}", console
        )
    if server := server_address(results.study):  # `ddcal ui` serves a database
        console.print(f"every trial is in MLflow at {server}")
    elif results.study.tracking.uri != "none":
        print_command("see every trial in MLflow", f"ddcal ui {shlex.quote(directory)}", console)


def shown_path(path: Path) -> str:
    """Return a path as it is shortest from the working folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _short(value: float | str | None) -> str:
    if isinstance(value, float):
        return repr(value)
    return "missing" if value is None else str(value)[:16]
