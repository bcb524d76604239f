"""The search of a study that goes on: its Optuna journal where that agrees with the ledger, else a new one from it.

The ledger is the truth. A journal may lack what was not on the disk when a machine went down, or be lost, damaged or
another study's. Then the ledger's history is gone through again with every trial's own values, so that what is
suggested next is what an undisturbed study would suggest.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ddcal.config import StudyConfig
from ddcal.study.record.events import TrialFinished, TrialStarted
from ddcal.study.record.ledger import LEDGER, DamagedLedger, Outcome, in_short, read_ledger
from ddcal.study.record.repair import free_name
from ddcal.study.record.results import UNREADABLE, Trial
from ddcal.study.search.journal import DriverJournal, journal_fault
from ddcal.study.search.proposals import Running
from ddcal.study.search.search import JOURNAL, StudySearch
from ddcal.untrusted import Untrusted, open_regular

logger = logging.getLogger(__name__)


def search_of(study: StudyConfig, directory: Path, records: Sequence[Trial]) -> StudySearch:
    """Return the search of a study whose former driver is proved dead and whose ledger has these trials.

    Raises:
        DamagedLedger: if the ledger's values do not fit its space, so that no journal can be made of it.
    """
    for lock in directory.glob(f"{JOURNAL}.lock*"):  # it would stall the next write by 30 seconds
        lock.unlink()
    why = journal_problem(study, directory, records)
    if why is None:
        _cut_half_line(directory / JOURNAL)
    else:
        kept = set_aside_journal(directory)
        rebuild_journal(study, directory, records)
        note = "" if kept is None else f"; what was there is kept as {kept.name}"
        logger.warning("%s: %s; it was built anew from the ledger%s", directory / JOURNAL, why, note)
    return StudySearch(study, directory)


def journal_problem(study: StudyConfig, directory: Path, records: Sequence[Trial]) -> str | None:
    """Return why a study's journal cannot be gone on with, or None; it may lack ends of trials, which are told again.

    Args:
        study: The study.
        directory: Its folder.
        records: The trials of its ledger.
    """
    path = directory / JOURNAL
    try:
        open_regular(path, links=True).close()
        if (fault := journal_fault(path)) is not None:
            return fault
        storage = JournalStorage(DriverJournal(path))
        found = {one.study_name: one for one in storage.get_all_studies()}
        if study.name not in found:
            return f"it has no study {study.name}" if found or records else None
        ways = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        if found[study.name].directions != [ways[way] for way in study.objectives.values()]:
            return "its study has other objectives"
        trials = storage.get_all_trials(found[study.name]._study_id)
    except FileNotFoundError:
        return "it is missing" if records else None
    except Untrusted as error:
        return f"it {error}"
    except Exception as error:  # whatever Optuna raises over lines that make no sense to it
        return f"it cannot be read ({in_short(error)})"
    return _disagreement(study, trials, {trial.number: trial for trial in records})


def rebuild_journal(study: StudyConfig, directory: Path, records: Sequence[Trial]) -> None:
    """Write the journal anew from the ledger; it is there in full or not at all.

    Raises:
        DamagedLedger: if the ledger's values do not fit its space.
    """
    name = f".{JOURNAL}.new"
    for leftover in directory.glob(f"{name}*"):
        leftover.unlink()
    search = StudySearch(study, directory, journal=name)
    ended = {trial.number: trial for trial in records if trial.outcome is not None}
    values = {trial.number: trial.values for trial in records}
    history = [event for event in read_ledger(directory) if isinstance(event, TrialStarted | TrialFinished)]
    last = {event.number: event for event in history if isinstance(event, TrialFinished)}
    asked = 0
    try:
        for event in history:
            while asked <= event.number:
                search.ask(values.get(asked))
                asked += 1
            if event.number in ended and event is last.get(event.number):
                tell_again(search, ended[event.number])
    except UNREADABLE as error:
        raise DamagedLedger(
            f"{directory / LEDGER}: the values of its trials do not fit its space ({in_short(error)}), so the lost "
            f"{JOURNAL} cannot be built anew"
        ) from error
    search.sync()
    os.replace(directory / name, directory / JOURNAL)


def tell_again(search: StudySearch, trial: Trial) -> None:
    """Tell the search how a trial ended that the ledger knows to have ended."""
    outcome: Outcome = trial.outcome  # type: ignore[assignment]
    search.tell(trial.number, outcome, _finite(trial), attributes_of(trial, outcome, trial.keys or {}))


def attributes_of(trial: Running | Trial, outcome: str, keys: dict[str, str]) -> dict[str, Any]:
    """Return what the Optuna journal says of a trial beside its values."""
    stages = {stage: key[:12] for stage, key in keys.items()}
    return {"trial_key": trial.trial_key, "ddcal": {"outcome": outcome, **stages}}


def _disagreement(study: StudyConfig, trials: Sequence[FrozenTrial], records: dict[int, Trial]) -> str | None:
    """Return how the journal's trials contradict the ledger's, or None."""
    there = {trial.number: trial for trial in trials if trial.state is not TrialState.WAITING}
    missing = sorted(set(records) - set(there))
    if missing:
        return f"it lacks trial {missing[0]}, which the ledger has"
    for number, trial in there.items():
        record, over = records.get(number), trial.state.is_finished()
        if over and (record is None or record.outcome is None):
            return f"in it trial {number} has ended, which the ledger does not say"
        if record is None:
            continue
        if over and (trial.state, trial.values) != _told(study, record):
            return f"trial {number} has not the result that the ledger says"
        for name, value in record.values.items():
            if (name in trial.params or over) and not _same(trial.params.get(name), value):
                return f"trial {number} has not the {name} that the ledger says"
    return None


def _told(study: StudyConfig, trial: Trial) -> tuple[TrialState, list[float] | None]:
    """Return the state and values that Optuna was told of a trial that has ended."""
    return StudySearch.verdict(study, trial.outcome, _finite(trial))  # type: ignore[arg-type]


def _finite(trial: Trial) -> dict[str, float]:
    return {name: value for name, value in (trial.metrics or {}).items() if value is not None}


def _same(first: Any, second: Any) -> bool:
    return bool(first == second) or json.dumps(first) == json.dumps(second)


def set_aside_journal(directory: Path) -> Path | None:
    """Move the journal out of the way under a name that says why, and return it; None if there is none."""
    if not os.path.lexists(directory / JOURNAL):
        return None
    target = free_name(directory, f"{JOURNAL}.contradicts-ledger")
    os.replace(directory / JOURNAL, target)
    return target


def _cut_half_line(journal: Path) -> None:
    content = journal.read_bytes() if journal.exists() else b""
    if content and not content.endswith(b"\n"):
        with journal.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
