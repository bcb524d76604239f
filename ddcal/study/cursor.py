"""Where MLflow stands in a study's ledger: a small file in the study's folder, moved by one mirror at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ddcal.study.ledger import LEDGER

CURSOR = "tracking.json"


@dataclass
class Cursor:
    """How much of the ledger MLflow has, and the runs that are open there.

    Attributes:
        offset: Bytes of the ledger that MLflow has; an event begins there.
        parent: The id of the study's run.
        runs: Trials that have not ended: number → run id and the data's config.
    """

    offset: int = 0
    parent: str | None = None
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Cursor:
        """Return the cursor of a study's folder; at the beginning if there is none.

        After a power cut the ledger may lack lines that MLflow has seen already: the cursor goes back to where the next
        event will be.
        """
        try:
            cursor = cls(**json.loads((directory / CURSOR).read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # a half-written file is one of a power cut, too
            return cls()
        cursor.offset = _start_of_line(directory / LEDGER, cursor.offset)
        return cursor

    def write(self, directory: Path) -> None:
        """Replace the file in one step."""
        temporary = directory / f".{CURSOR}.tmp"
        temporary.write_text(json.dumps(asdict(self)))
        os.replace(temporary, directory / CURSOR)


@contextlib.contextmanager
def one_mirror(directory: Path) -> Iterator[None]:
    """Keep other mirrors of the folder waiting: one that a study no longer waits for may still be at an event."""
    with (directory / f".{CURSOR}.guard").open("w") as guard:
        with contextlib.suppress(OSError):  # a file system without locks; one driver at a time is most of it anyway
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _start_of_line(ledger: Path, offset: int) -> int:
    try:
        with ledger.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            if offset <= size:
                stream.seek(max(0, offset - 1))
                if offset == 0 or stream.read(1) == b"\n":
                    return offset
            stream.seek(0)
            return stream.read(min(offset, size)).rfind(b"\n") + 1
    except FileNotFoundError:
        return 0
