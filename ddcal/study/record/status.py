"""How far a study is, from its ledger alone: while it runs, and after a crash."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ddcal.store.lock_holder import MAX_TEXT, Holder
from ddcal.study.record.chance import chance_warning
from ddcal.study.record.events import StudyResumed, StudyStarted, TrialFinished
from ddcal.study.record.ledger import read_ledger
from ddcal.study.record.lock import LOCK
from ddcal.study.record.results import load_study
from ddcal.untrusted import read_bytes


@dataclass(frozen=True)
class Status:
    """A study's progress.

    Attributes:
        study: Its name.
        state: ``running``, ``finished``, ``stopped`` (by its driver) or ``dead`` (its driver was killed).
        trials: How many it is to have.
        finished: How many have ended.
        outcomes: Outcome → count; ``unfinished`` for those handed out.
        best: The trial key of the present winner.
        best_metrics: Its objectives.
        trials_an_hour: Over the last session; None before the second trial has ended.
        seconds_left: At that rate; None where nothing is left or nothing known.
        next_command: What to do next, if the study does not run.
        warning: That the winner's accuracy cannot be told from chance, in a sentence; None where it can.
    """

    study: str
    state: str
    trials: int
    finished: int
    outcomes: dict[str, int]
    best: str | None
    best_metrics: dict[str, float | None]
    trials_an_hour: float | None
    seconds_left: float | None
    next_command: str | None
    warning: str | None = None


def study_status(directory: Path | str) -> Status:
    """Read a study's ledger and its driver's lock.

    Raises:
        BadInput: if the folder is not a study's.
    """
    results = load_study(directory)
    began = 0
    ends: list[int] = []
    for event in read_ledger(results.directory):
        if isinstance(event, StudyStarted | StudyResumed):
            began, ends = event.time, []
        elif isinstance(event, TrialFinished):
            ends.append(event.time)
    finished = sum(trial.outcome is not None for trial in results.records)
    rate = len(ends) / ((ends[-1] - began) / 3.6e6) if len(ends) > 1 and ends[-1] > began else None
    left = results.study.search.trials - finished
    state = study_state(results.directory, results.interrupted)
    best = results.best
    return Status(
        study=results.study.name,
        state=state,
        trials=results.study.search.trials,
        finished=finished,
        outcomes=dict(Counter(trial.outcome or "unfinished" for trial in results.records)),
        best=None if best is None else best.trial_key,
        best_metrics={} if best is None else {n: (best.metrics or {}).get(n) for n in results.study.objectives},
        trials_an_hour=rate,
        seconds_left=left / rate * 3600 if rate and left and state == "running" else None,
        next_command=f"ddcal resume {shlex.quote(str(directory))}" if state in ("stopped", "dead") else None,
        warning=None if best is None else chance_warning(best),
    )


def study_state(directory: Path, interrupted: bool) -> str:
    """Return ``running``, ``finished``, ``stopped`` or ``dead``, from the lock on a study's folder."""
    try:
        holder = Holder.parse(read_bytes(directory / LOCK, MAX_TEXT))
    except FileNotFoundError:
        return "stopped" if interrupted else "finished"
    except (ValueError, OSError):
        return "dead"
    return "dead" if holder.dead else "running"
