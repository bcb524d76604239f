"""The trials behind a page's numbers: settings, outcome, log, and the command that hands each on as a replay."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.page import Entry, Page, run_anchor
from ddcal.study.record.results import StudyResults


def put_runs(page: Page, studies: Sequence[StudyResults], shown: Path | None = None) -> None:
    """Put a table of every study's trials on the page; numbers link to its rows.

    Args:
        page: The page.
        studies: Their results.
        shown: The output root as the user gave it, for the commands; default: the studies' own folders.
    """
    for study in studies:
        folder = study.directory if shown is None else shown / study.directory.name
        page.heading(study.study.name, 3, listed=False)
        outcomes: dict[str, int] = {}
        for trial in study.records:
            outcome = trial.outcome or "unfinished"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        told = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in sorted(outcomes.items()))
        seconds = "" if study.seconds is None else f" in {study.seconds:.0f} s"
        page.text(f"{told}{seconds}. `{folder / 'trials.csv'}` has every metric of every trial.")
        rows: list[list[Entry]] = []
        anchors = []
        for trial in study.records:
            run = Run(study, trial)
            settings = ", ".join(f"{_short(name)} {_value(value)}" for name, value in trial.values.items())
            outcome = trial.outcome or "unfinished"
            rows.append([trial.trial_key, settings, run.gap or outcome, _log(run), f"`{replay_command(run, folder)}`"])
            anchors.append(run_anchor(run))
        columns = ["trial", "settings", "outcome", "log", "hand on and replay"]
        page.table(columns, rows, anchors=anchors)


def replay_command(run: Run, folder: Path) -> str:
    """Return the command that exports a trial and runs it again."""
    to = f"replay-{run.trial.trial_key}"
    return (
        f"ddcal export {shlex.quote(str(folder))} --trial {run.trial.number} --to {shlex.quote(to)} "
        f"&& ddcal replay {shlex.quote(to)}"
    )


def _log(run: Run) -> Path | str:
    log = run.trial.log
    if log is None:
        return ""
    path = Path(log)
    return path if path.is_absolute() else run.study.directory / path


def _short(name: str) -> str:
    return name.removeprefix("distill.").removeprefix("calibrate.").removeprefix("train.")


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
