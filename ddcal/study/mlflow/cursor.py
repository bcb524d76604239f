"""Where MLflow stands in a study's ledger: a small file in the study's folder, moved by one mirror at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddcal.errors import TrackingError
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import lock_file
from ddcal.untrusted import MAX_BYTES, open_regular, read_bytes

CURSOR = "tracking.json"


class _Run(BaseModel):
    """A trial that has not ended: its run's id and the config of its data."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str
    data: dict[str, Any]


class _File(BaseModel):
    """The file as it is written; one of an earlier version has no ``check``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    offset: Annotated[int, Field(ge=0, lt=2**63)]
    parent: str | None
    runs: dict[str, _Run]
    check: str | None = None


@dataclass
class Cursor:
    """How much of the ledger MLflow has, and the runs that are open there.

    Attributes:
        offset: Bytes of the ledger that MLflow has; an event begins there.
        parent: The id of the study's run.
        runs: Trials that have not ended: number → run id and the data's config.
        lost: Whether there was no cursor that could be used, so that MLflow may have more than it says.
    """

    offset: int = 0
    parent: str | None = None
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: bool = field(default=False, compare=False)
    _mark: tuple[int, int, int] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, directory: Path) -> Cursor:
        """Return the cursor of a study's folder; at the beginning if there is none, or one that is damaged.

        After a power cut, or a mended damage, the ledger may lack lines that MLflow has seen already. A cursor that
        points to no event of it counts as damaged: what lies behind that place is not what it knew.
        """
        try:
            cursor = cls(**read_cursor(directory))
        except (OSError, ValueError):
            return cls(lost=True)
        return cursor if _at_a_line(directory / LEDGER, cursor.offset) else cls(lost=True)

    def is_as_written(self, directory: Path) -> bool:
        """Whether the file is still what this cursor has written last; asked once after each `write`.

        With a thousand trials at once the file is long: reading it at every event would take longer than the event.
        """
        mark, self._mark = self._mark, None  # what follows may change this cursor, and fail
        return mark is not None and mark == _mark_of(directory / CURSOR) and _at_a_line(directory / LEDGER, self.offset)

    def write(self, directory: Path) -> None:
        """Replace the file in one step.

        Raises:
            TrackingError: if that cannot be done, naming it.
        """
        text = _text({"offset": self.offset, "parent": self.parent, "runs": self.runs})
        temporary = directory / f".{CURSOR}.tmp"
        try:
            temporary.write_text(f'{text[:-1]}, "check": "{_digest(text)}"}}')
            self._mark = _mark_of(temporary)
            os.replace(temporary, directory / CURSOR)
        except OSError as error:
            raise TrackingError(f"{directory / CURSOR} cannot be written: {error.strerror or error}") from error


def read_cursor(directory: Path) -> dict[str, Any]:
    """Return what the file says: ``offset``, ``parent`` and ``runs``.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not as it was written.
    """
    try:
        values = _File.model_validate_json(read_bytes(directory / CURSOR, MAX_BYTES)).model_dump()
    except ValidationError:
        raise ValueError(f"{CURSOR} is not in its format") from None
    check = values.pop("check")
    if check is not None and check != _digest(_text(values)):
        raise ValueError(f"{CURSOR} does not match its own checksum")
    return values


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _mark_of(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from one that replaces it; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextlib.contextmanager
def one_mirror(directory: Path) -> Iterator[None]:
    """Keep other mirrors of the folder waiting: one that a study no longer waits for may still be at an event."""
    with lock_file(directory / f".{CURSOR}.guard") as guard:
        with contextlib.suppress(OSError):  # a file system without locks; one driver at a time is most of it anyway
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _at_a_line(ledger: Path, offset: int) -> bool:
    """Return whether a line of the ledger begins there, or will."""
    if offset == 0:
        return True
    try:
        with open_regular(ledger) as stream:
            stream.seek(offset - 1)
            return stream.read(1) == b"\n"
    except (OSError, ValueError):
        return False
