"""What a report was computed with, and the trials behind its numbers, each with the command of its replay."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ddcal import __version__
from ddcal.analysis.labels import REDUCED_NOTE
from ddcal.analysis.report.cells import Run
from ddcal.analysis.report.page import Entry, Page, run_anchor
from ddcal.config.own import replay_with
from ddcal.errors import BadInput
from ddcal.study.record.results import StudyResults

FULL_SCALE = "gpu"
"""The scale of the published recipes; pages of any other say that they are reduced."""


def put_facts(page: Page, studies: Sequence[StudyResults], scale: str, beside: str = "") -> None:
    """Put on the page how a report was computed.

    Args:
        page: The page.
        studies: Their results.
        scale: Its name.
        beside: What numbers at a reduced scale are not to be read beside, with a comma before it.
    """
    if scale != FULL_SCALE:
        page.text(
            f"Scale {scale}: {REDUCED_NOTE}. Narrow networks, few iterations, a part of the training images: read the "
            f"numbers beside each other{beside}.",
            "reduced",
        )
    facts = [f"ddcal {__version__}, page made {datetime.now():%Y-%m-%d %H:%M} on {platform.machine()}"]
    if studies:
        started = studies[0].started
        versions = started.get("versions", {})
        names = ("python", "torch", "ray", "optuna")
        shown = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
        device = started.get("environment", {}).get("device", "an unknown device")
        facts.append(f"computed on {device}; {shown}".rstrip("; "))
    seconds = sum(study.seconds or 0.0 for study in studies)
    trials = sum(len(study.records) for study in studies)
    facts.append(f"{len(studies)} studies with {trials} trials, {seconds / 60:.1f} minutes of studies in all")
    page.bullets(facts)


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
    try:
        replay = replay_with(run.trial.config)
    except BadInput:  # a study of another ddcal, which knows whether it is to be trusted
        replay = "ddcal replay"
    return (
        f"ddcal export {shlex.quote(str(folder))} --trial {run.trial.number} --to {shlex.quote(to)} "
        f"&& {replay} {shlex.quote(to)}"
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
