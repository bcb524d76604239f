"""Whether a study's folder is whole, part by part, and what of it can be built anew."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.places import is_url
from ddcal.config.reading.study_paths import from_folder, with_study_paths
from ddcal.config.reading.yaml_reader import Refused, YamlReader
from ddcal.errors import BadInput, StoreError
from ddcal.store.base import MANIFEST
from ddcal.store.lock_holder import MAX_TEXT, Holder
from ddcal.store.opening import open_store
from ddcal.study.mlflow.cursor import CURSOR, read_cursor
from ddcal.study.record.confirmation import CONFIRMATION, read_confirmation
from ddcal.study.record.folder_files import STUDY, write_study_file
from ddcal.study.record.ledger import LEDGER, in_short, no_study, read_lines
from ddcal.study.record.lock import LOCK, DriverLock
from ddcal.study.record.repair import free_name, mend_ledger, set_aside_cursor, why_not_mendable
from ddcal.study.record.results import (
    PARETO,
    SUMMARY,
    TRIALS,
    UNREADABLE,
    StudyResults,
    Trial,
    load_study,
    trial_rows,
)
from ddcal.study.record.status import study_state
from ddcal.study.record.study_store import cache_place
from ddcal.study.run.takeover import journal_problem, rebuild_journal, set_aside_journal
from ddcal.study.search.search import JOURNAL
from ddcal.untrusted import read_bytes, read_json

MAX_TABLE, MAX_STUDY = 2**30, 2**24
_ELSEWHERE = ("log",)
"""Columns that say where something lies: they differ where a folder was moved."""


@dataclass(frozen=True)
class Part:
    """One part of a study's folder.

    Attributes:
        name: The file, or ``store``.
        fault: What is wrong with it; None if it is whole.
        mendable: Whether it can be built anew.
        mended: How it was, if it was.
    """

    name: str
    fault: str | None = None
    mendable: bool = False
    mended: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong with it (any more)."""
        return self.fault is None or self.mended is not None


def verify_study(directory: Path | str, *, repair: bool = False) -> list[Part]:
    """Return the parts of a study's folder, each with what is wrong with it.

    Args:
        directory: The folder.
        repair: Whether to build anew what can be; what was there of ledger, journal and cursor is kept beside it.

    Raises:
        BadInput: if the folder is not a study's, or is to be mended while a driver works on it.
    """
    folder = Path(directory).absolute()
    if not os.path.lexists(folder / LEDGER):
        raise no_study(directory)
    lock = DriverLock(folder) if repair else None
    try:
        parts = list(_parts(folder, repair=repair))
    finally:
        if lock is not None:
            lock.release()
    there = (part for part in parts if part.fault or part.name == "store" or os.path.lexists(folder / part.name))
    return list(there)


def _parts(folder: Path, *, repair: bool) -> Iterator[Part]:
    ledger = list(_ledger(folder, repair))
    yield from (part for part in ledger if part.fault is not None)
    if not all(part.whole for part in ledger):
        return
    try:
        results = load_study(folder)
        for trial in results.records:
            _ = trial.config
    except BadInput as error:
        yield Part(LEDGER, str(error).removeprefix(f"{LEDGER}: "))
        return
    yield from (part for part in ledger if part.fault is None)
    running = not repair and study_state(folder, results.interrupted) == "running"

    def part(name: str, check: Callable[[], str | None], mend: Callable[[], str] | None = None) -> Part:
        found = check()
        if found is None or mend is None or not repair:
            return Part(name, found, mend is not None and found is not None)
        return Part(name, found, True, mend())

    def anew(name: str, write: Callable[[], None]) -> Callable[[], str]:
        return lambda: _written(folder, name, write)

    records = results.records
    yield part(STUDY, lambda: _study_fault(results), anew(STUDY, lambda: write_study_file(results.study, folder)))
    if not running:  # they are behind the ledger then, by what is on its way
        journal = partial(journal_problem, results.study, folder, records)
        yield part(JOURNAL, journal, lambda: _journal_anew(results))
        yield part(TRIALS, partial(_table_fault, results, TRIALS, records), anew(TRIALS, results.write))
        yield part(PARETO, partial(_table_fault, results, PARETO, results.pareto), anew(PARETO, results.write))
        yield part(SUMMARY, lambda: _summary_fault(results), anew(SUMMARY, results.write))
    yield part(CURSOR, lambda: _cursor_fault(folder), lambda: _cursor_aside(folder))
    yield part(CONFIRMATION, lambda: _confirmation_fault(results))
    yield from _store_parts(results)
    if not repair and (fault := _lock_fault(folder)) is not None:
        yield Part(LOCK, fault)


# The ledger


def _ledger(folder: Path, repair: bool) -> Iterator[Part]:
    try:
        lines = list(read_lines(folder))
    except BadInput as error:
        yield Part(LEDGER, str(error))
        return
    faults = [line for line in lines if line.fault is not None]
    if not lines:
        yield Part(LEDGER, "it is empty: the study has not begun")
    elif not faults:
        yield Part(LEDGER)
    obstacle = why_not_mendable(lines)
    aside = mend_ledger(folder) if faults and repair and obstacle is None else None
    mended = None if aside is None else f"taken out; the old ledger is kept as {aside.name}"
    for line in faults:
        yield Part(LEDGER, f"line {line.number}: {line.fault}; {line.lost}", obstacle is None, mended)
    if all(line.newer for line in faults):
        return
    if obstacle is not None:
        yield Part(LEDGER, f"it cannot be mended: {obstacle}; a copy from before would help", False)


# What is made of it


def _study_fault(results: StudyResults) -> str | None:
    try:
        text = read_bytes(results.directory / STUDY, MAX_STUDY, links=True).decode()
        there = StudyConfig.model_validate(YamlReader().read(text))
    except Refused as error:
        return f"it cannot be read ({error.problem.message})"
    except (OSError, *UNREADABLE) as error:
        return _unreadable(error)
    # Relative paths are of the study's folder in both; earlier versions wrote them as they were given.
    change = from_folder(results.directory) if results.started.get("paths") else os.path.basename
    one, other = (with_study_paths(study.model_dump(mode="json"), change) for study in (there, results.study))
    return None if one == other else "it says something else than the ledger"


def _table_fault(results: StudyResults, name: str, trials: list[Trial]) -> str | None:
    expected = {row["number"]: row for row in _as_read(trial_rows(results.study, trials))}
    every = {row["number"]: row for row in _as_read(trial_rows(results.study, results.records))}
    try:
        content = read_bytes(results.directory / name, MAX_TABLE, links=True).decode()
        rows = list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
        found = {row["number"]: row for row in rows}
    except FileNotFoundError:
        return None if results.interrupted else "it is missing"
    except (OSError, csv.Error, *UNREADABLE) as error:
        return _unreadable(error)
    if len(found) != len(rows) or any(None in row or None in row.values() for row in rows):
        return "it is no table of trials"
    if not results.interrupted and set(found) != set(expected):
        return "it has not the trials that the ledger has"
    for number, row in found.items():
        if number not in every:
            return f"it has a trial {number}, which the ledger has not"
        if results.interrupted and row.get("outcome") == "unfinished":
            continue
        for column in set(row) & set(every[number]) - set(_ELSEWHERE):
            if row[column] != every[number][column]:
                return f"trial {number}: {column} is not what the ledger says"
    return None


def _as_read(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["number"])
    writer.writeheader()
    writer.writerows(rows)
    return list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))


def _summary_fault(results: StudyResults) -> str | None:
    try:
        there = read_json(results.directory / SUMMARY, links=True)
        expected = json.loads(json.dumps(results.summary()))
        if results.interrupted:
            return None if there["study"] == expected["study"] else "it says something else than the ledger"
        names = ("number", "trial_key", "values", "metrics")
        winners = [one["winner"] and {name: one["winner"][name] for name in names} for one in (there, expected)]
        same = all(there[name] == expected[name] for name in ("study", "outcomes", "pareto"))
    except FileNotFoundError:
        return None if results.interrupted else "it is missing"
    except (OSError, *UNREADABLE) as error:
        return _unreadable(error)
    return None if same and winners[0] == winners[1] else "it says something else than the ledger"


def _journal_anew(results: StudyResults) -> str:
    aside = set_aside_journal(results.directory)
    rebuild_journal(results.study, results.directory, results.records)
    return "built anew from the ledger" + ("" if aside is None else f"; what was there is kept as {aside.name}")


def _written(folder: Path, name: str, write: Callable[[], None]) -> str:
    kept = ""
    if (folder / name).is_dir() and not (folder / name).is_symlink():
        aside = free_name(folder, f"{name}.damaged")
        os.replace(folder / name, aside)
        kept = f"; what was there is kept as {aside.name}"
    write()
    return f"written anew from the ledger{kept}"


# What stands beside it


def _cursor_fault(folder: Path) -> str | None:
    try:
        cursor = read_cursor(folder)
        with (folder / LEDGER).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, cursor["offset"] - 1))
            if cursor["offset"] > size or (cursor["offset"] and stream.read(1) != b"\n"):
                return "it points to no event of the ledger"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return _unreadable(error)
    return None


def _confirmation_fault(results: StudyResults) -> str | None:
    try:
        leaders = read_confirmation(results.directory)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"{_unreadable(error)}; remove it: nothing counts as confirmed, and `ddcal confirm` measures it again"
    unknown = {one["trial_key"] for one in leaders} - {trial.trial_key for trial in results.records}
    return f"it is of {sorted(unknown)[0]}, which the study has not" if unknown else None


def _store_parts(results: StudyResults) -> Iterator[Part]:
    place = results.store
    if not place or (not is_url(place) and not Path(place).is_dir()):
        yield Part("store", f"it is not at {place}, so exports compute everything again")
        return
    named = {
        (stage, key): trial.trial_key
        for trial in results.records
        if trial.outcome in ("complete", "infeasible")
        for stage, key in (trial.keys or {}).items()
    }
    try:
        store, faults = open_store(place, cache_place(results.study)), []
        for (stage, key), trial_key in named.items():
            content = store.read(f"{stage}/{key}/{MANIFEST}")
            fault = "it is missing" if content is None else store.fault(stage, key, content)
            if fault is not None:
                faults.append(Part(f"{stage}/{key[:12]} of {trial_key}", f"{fault}; an export computes it again"))
    except (StoreError, ValueError) as error:
        yield Part("store", str(error))
        return
    yield from faults or [Part("store")]


def _lock_fault(folder: Path) -> str | None:
    try:
        Holder.parse(read_bytes(folder / LOCK, MAX_TEXT))
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE):
        return "it is no lock: remove it if no driver is running"
    return None


def _cursor_aside(folder: Path) -> str:
    return f"set aside as {set_aside_cursor(folder).name}; `ddcal sync` looks through what MLflow has"


def _unreadable(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is missing"
    said = error.strerror if isinstance(error, OSError) and error.strerror else in_short(error)
    return f"it cannot be read ({said})"
