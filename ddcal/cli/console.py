"""What a person sees while a study runs and at its end: a line a trial, a progress bar in debug mode, a summary."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ddcal.analysis.calibration_rows import calibration_rows
from ddcal.study.record.chance import chance_warning
from ddcal.study.record.confirmation import sentence, standing
from ddcal.study.record.results import WINNER_METRIC, StudyResults, Trial
from ddcal.study.record.status import Status

if TYPE_CHECKING:
    from ddcal.pipeline.upkeep import Listed
    from ddcal.study.export.replay import Comparison
    from ddcal.study.run.confirm import Confirmed
    from ddcal.study.search.importance import Importance


def make_console(stderr: bool = False) -> Console:
    """Return a console that wraps on a terminal alone: lines in a file or a pipe stay whole."""
    plain: dict[str, Any] = {
        "stderr": stderr,
        "highlight": False,
        "markup": False,
        "emoji": False,
    }  # paths have brackets
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=200)


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
        console.print(
            f"MLflow does not have everything yet ({results.unsent} bytes of the ledger wait): "
            f"ddcal sync {shlex.quote(shown_path(results.directory))}"
        )
    best = results.best
    if best is None:
        console.print(results.no_winner, markup=False)
        _print_files(results, console)
        return
    front = ", ".join(str(trial.number) for trial in results.pareto)
    console.print(
        f"winner: {best.trial_key} (lowest val/nll of the Pareto front: trials {front}; "
        f"{'' if results.confirmed(best) else 'not '}confirmed on fresh seeds)"
    )
    for name, value in best.values.items():
        console.print(f"  {name:<24} {value:.4g}" if isinstance(value, float) else f"  {name:<24} {value}")
    console.print(calibration_table(best))
    if warning := chance_warning(best):
        console.print(f"warning: {warning}", soft_wrap=not console.is_terminal)
    _print_files(results, console)


def print_status(status: Status, console: Console) -> None:
    """Print how far a study is."""
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(status.outcomes.items())) or "none yet"
    console.print(f"{status.study}: {status.state}; {status.finished} of {status.trials} trials finished ({outcomes})")
    if status.best is not None:
        shown = "  ".join(f"{name} {value:.4f}" for name, value in status.best_metrics.items())
        console.print(f"best so far  {status.best}  {shown}")
    if status.warning:
        console.print(f"warning: {status.warning}", soft_wrap=not console.is_terminal)
    if status.trials_an_hour is not None:
        left = "" if status.seconds_left is None else f", about {status.seconds_left / 60:.0f} min left"
        console.print(f"rate  {status.trials_an_hour:.0f} trials an hour{left}")
    if status.next_command:
        console.print(f"next  {status.next_command}")


def calibration_table(trial: Trial) -> Table:
    """Return raw, ts_train, the trial's own calibration and ts_val on test, with the noise floor of the ECE."""
    title, rows = calibration_rows(trial)
    table = Table(title=title, title_justify="left")
    for name in ("calibration", "ECE", "NLL", "accuracy", ""):
        table.add_column(name, justify="left" if name in ("calibration", "") else "right")
    for row in rows:
        note = " ".join([*(["<- this trial"] if row.own else []), *(["worse NLL than raw"] if row.worse else [])])
        table.add_row(row.name, f"{row.ece:.4f}", f"{row.nll:.4f}", f"{row.accuracy:.4f}", note)
    return table


def pareto_table(results: StudyResults) -> Table:
    """Return the front, the winner marked: searched values and objectives."""
    table = Table(title=f"{results.study.name}: Pareto front", title_justify="left")
    table.add_column("trial")
    metrics = dict.fromkeys((*results.study.objectives, WINNER_METRIC))
    for name in (*results.study.space, *metrics):
        table.add_column(name)
    best = results.best
    for trial in results.pareto:
        mark = " (winner)" if best is not None and trial.number == best.number else ""
        shown = [trial.values.get(name, "") for name in results.study.space]
        shown += [(trial.metrics or {}).get(name, "") for name in metrics]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in shown]
        table.add_row(trial.trial_key + mark, *cells)
    return table


def print_confirmation(found: list[Confirmed], results: StudyResults, console: Console) -> None:
    """Print what the search reported beside the mean over fresh seeds, a table a leader, and what that says."""
    best = results.best
    records = [asdict(one) for one in found]
    for leader in dict.fromkeys(one.trial_key for one in found):
        rows = [one for one in found if one.trial_key == leader]
        mark = " (winner)" if best is not None and leader == best.trial_key else ""
        table = Table(title=f"{leader}{mark} on {rows[0].seeds} fresh seeds", title_justify="left")
        for name in ("metric", "search", "mean", "95 % interval", "verdict"):
            table.add_column(name, justify="right" if name in ("search", "mean") else "left")
        for one in rows:
            interval = f"{one.low:.4f}–{one.high:.4f}"
            table.add_row(one.metric, f"{one.searched:.4f}", f"{one.mean:.4f}", interval, one.verdict)
        console.print(table)
    console.print("intervals: of the mean, Student's t over seeds, cut to what is possible")
    if best is None:
        return
    for record in records:
        if record["trial_key"] == best.trial_key and record["metric"] in (*results.study.objectives, WINNER_METRIC):
            console.print(f"{best.trial_key}, {record['metric']}: {sentence(record)}")
    if first := standing(records, best.trial_key, WINNER_METRIC):
        console.print(first)


def importance_table(found: list[Importance]) -> Table:
    """Return the importance of every name, objective by objective."""
    table = Table(title="share of the variance explained (fANOVA)", title_justify="left")
    for name in ("objective", "name", "share", "80 % interval", "better", "trials", "active where"):
        table.add_column(name, justify="right" if name in ("share", "80 % interval", "trials") else "left")
    for one in found:
        share = "too few" if one.share is None else f"{one.share:.3f}"
        interval = "" if one.low is None else f"{one.low:.2f} to {one.high:.2f}"
        table.add_row(one.objective, one.name, share, interval, one.better or "", str(one.trials), one.where)
    return table


def store_table(entries: list[Listed], references: dict[str, set[str]]) -> Table:
    """Return what is in a store."""
    total = sum(entry.bytes for entry in entries) / 1e6
    table = Table(title=f"{len(entries)} artefacts, {total:.1f} MB", title_justify="left")
    for name in ("stage", "key", "MB", "seconds", "published", "what", "referred to by"):
        table.add_column(name, justify="right" if name in ("MB", "seconds") else "left")
    for entry in entries:
        published = datetime.fromtimestamp(entry.created).strftime("%Y-%m-%d %H:%M")
        who = ", ".join(sorted(Path(folder).name for folder in references.get(entry.key, ())))
        cells = (f"{entry.bytes / 1e6:.2f}", f"{entry.seconds:.1f}", published, entry.what, who)
        table.add_row(entry.stage, entry.key[:12], *cells)
    return table


def comparison_table(comparisons: list[Comparison], everything: bool) -> Table:
    """Return recorded beside replayed; only what differs, or the main metrics and every artefact if nothing does."""
    table = Table(title="replay", title_justify="left")
    for name in ("what", "recorded", "replayed", "tolerance", ""):
        table.add_column(name)
    for item in comparisons:
        main = "/" in item.name and item.name.count("/") == 1
        if everything or not item.same or main:
            same = "not compared" if not item.compared else "equal" if item.same else "DIFFERS"
            table.add_row(escape(item.name), _short(item.recorded), _short(item.replayed), f"{item.tolerance:g}", same)
    return table


def _print_files(results: StudyResults, console: Console) -> None:
    directory = shown_path(results.directory)
    console.print("")
    console.print(
        f"files   {directory}/trials.csv, pareto.csv, summary.json; a log for every trial in {directory}/logs/"
    )
    if results.best is not None:
        to = f"best-{results.study.name}"
        console.print(
            f"export  ddcal export {shlex.quote(directory)} --to {shlex.quote(to)} && ddcal replay {shlex.quote(to)}"
        )
    console.print(f"ui      ddcal ui {shlex.quote(directory)}")


def shown_path(path: Path) -> str:
    """Return a path as it is shortest from the working folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _short(value: float | str | None) -> str:
    if isinstance(value, float):
        return repr(value)
    return "missing" if value is None else escape(str(value)[:16])
