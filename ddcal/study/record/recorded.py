"""Places as a study's ledger has them, and where they are now that the study's output root may have been moved.

What lies below the root is recorded relative to the study's folder (`ddcal.config.reading.study_paths`). Ledgers of
earlier versions have absolute paths alone, and relative ones as they were given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.names import nest
from ddcal.config.places import is_url
from ddcal.config.reading.study_paths import TRIAL_PLACES, from_folder, with_study_paths, within
from ddcal.config.trial import flatten
from ddcal.credentials import without_credentials
from ddcal.study.record.events import Event, StudyFinished, StudyResumed, StudyStarted

LOGS = "logs"


def recorded_store(event: StudyStarted | StudyResumed, directory: Path) -> str | None:
    """Return the store of a study whose ledger begins, or goes on, with an event; None if it does not say.

    A store that the study does not name is the one in its output root, wherever the root lies now.

    Args:
        event: The event.
        directory: The study's folder, where it lies now.
    """
    named = (recorded_study(event, directory).get("storage") or {}).get("store")
    if named is None:
        return str(directory.parent.absolute() / "store")
    if is_url(named) or Path(named).is_absolute():
        return str(named)
    return event.store if isinstance(event, StudyStarted) else None  # as it was given, from wherever that was


def recorded_study(event: StudyStarted | StudyResumed, directory: Path) -> dict[str, Any]:
    """Return a study's config as an event has it, with the paths absolute that are relative to the study's folder."""
    return event.study if event.paths is None else with_study_paths(event.study, from_folder(directory), space=False)


def portable_study(study: StudyConfig, directory: Path) -> dict[str, Any]:
    """Return a study's config as its folder has it: paths below the output root are relative to the folder.

    Paths that are searched stay as they are, as in the journal.
    """
    return with_study_paths(study.model_dump(mode="json"), within(directory.parent, directory), space=False)


def log_of(log: str | None) -> str | None:
    """Return a trial's log from the study's folder on; ledgers of earlier versions have its path before any move."""
    return f"{LOGS}/{Path(log).name}" if log and Path(log).parent.name == LOGS else log


def as_begun(study: dict[str, Any], trial: dict[str, Any]) -> dict[str, Any]:
    """Return a study of an earlier version with its relative paths absolute, as those of its trials have always been.

    They were relative to the working folder of whoever began it, which only a trial's paths tell now.
    """
    given, used = flatten(nest(study.get("base") or {})[0]), flatten(trial)
    for name in TRIAL_PLACES:
        path, whole = given.get(name), used.get(name)
        if isinstance(path, str) and isinstance(whole, str) and whole.endswith(f"{os.sep}{Path(path)}"):
            return with_study_paths(study, from_folder(whole.removesuffix(str(Path(path)))), space=False)
    return study


def with_password(study: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return a resumed study with the tracking URI of the first line, whose password is not written a second time."""
    former = (before.get("tracking") or {}).get("uri")
    tracking = study.get("tracking") or {}
    if former is None or without_credentials(former) != tracking.get("uri"):
        return study
    return study | {"tracking": tracking | {"uri": former}}


def worked_before(seconds: float | None, session: Sequence[Event]) -> float | None:
    """Return how long drivers have worked on a study when another one goes on with it.

    Args:
        seconds: What the last driver that has ended says; None where none has.
        session: The events of the last session: one that was killed has worked as long as they tell.
    """
    if not session or any(isinstance(event, StudyFinished) for event in session):
        return seconds
    return (seconds or 0.0) + max(0, session[-1].time - session[0].time) / 1000
