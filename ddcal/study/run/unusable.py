"""A place that takes nothing more, or a machine where no trial begins, stops a study, which goes on later."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddcal.errors import BadInput, StoreError, TrackingError, cure_of, disk_error
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import begun
from ddcal.study.record.results import load_study
from ddcal.study.run.worker import LostProcess


@contextmanager
def stops_the_study(directory: Path, command: Callable[[Path], str] | None = None) -> Iterator[None]:
    """Raise what a place does not take as one StoreError that says how far the study is and how it goes on.

    Args:
        directory: The study's folder.
        command: As in `stop_sentence`.

    Raises:
        StoreError: for another one, and for an OSError of the study's folder or of a disk that takes nothing.
    """
    try:
        yield
    except (BadInput, TrackingError):
        raise
    except StoreError as error:
        raise StoreError(stop_sentence(directory, str(error), error.cure, command)) from error
    except Exception as error:
        found = error if _of_the_folder(error, directory) else disk_error(error)
        if not isinstance(found, OSError):
            raise
        place = found.filename or f"the study's folder {directory}"
        said = f"{place} cannot be written: {found.strerror or found}"
        raise StoreError(stop_sentence(directory, said, cure_of(found), command)) from error


def told_by_worker(result: dict[str, Any]) -> StoreError:
    """Return the error of a worker that could not go on (`ddcal.study.run.worker.Worker.step`)."""
    said, cure = result["unusable"]
    host = (result["node"] or "").partition("/")[0]
    return StoreError(said if host in ("", socket.gethostname()) else f"{said} (on {host})", cure)


def why_lost(error: BaseException | None, *, for_good: bool) -> StoreError | None:
    """Return the error that a study stops with because a worker was lost; None if the trial goes on or is killed.

    Args:
        error: What the worker has raised: a disk takes nothing more, or no trial begins in its process.
        for_good: Whether the trial was tried as often as it may be.
    """
    if isinstance(error, LostProcess):
        return error if for_good else None
    found = None if error is None else disk_error(error)
    return None if found is None else StoreError(f"{found.filename or 'a worker'}: {found.strerror}", cure_of(found))


def _of_the_folder(error: Exception, directory: Path) -> bool:
    return isinstance(error, OSError) and Path(str(error.filename or "/")).is_relative_to(directory)


def stop_sentence(directory: Path, said: str, cure: str, command: Callable[[Path], str] | None = None) -> str:
    """Return that a study stops, how far it is, why, and how it goes on.

    Args:
        directory: Its folder.
        said: Why.
        cure: What to do first.
        command: Returns the command that goes on with it; default: ``ddcal resume`` with the folder.
    """
    how = "run it again"
    if begun(directory) or (directory / STUDY).is_file():
        go_on = shlex.join(["ddcal", "resume", str(directory)]) if command is None else command(directory)
        how = f"go on with `{go_on}`"
    far = ""
    with suppress(BadInput, OSError, KeyError):
        results = load_study(directory)
        finished = sum(trial.outcome is not None for trial in results.records)
        trials = results.study.search.trials
        others = "" if finished >= trials else ", the others go on later"
        far = f" ({finished} of {trials} trials are finished{others})"
    return f"the study stops{far}: {said}\n{cure[:1].upper()}{cure[1:]}, then {how}"
