"""Optuna's journal, brought to the disk when the driver needs it there instead of after every line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from ddcal.study.record.chain import seal, unseal
from ddcal.study.record.ledger import write_whole
from ddcal.untrusted import open_regular


class DriverJournal(JournalFileBackend):
    """A journal file without an fsync a line: a trial writes half a dozen lines, and one `sync` does for all.

    A driver that is killed loses nothing: what is written is the kernel's. If the machine itself goes down, the lines
    since the last `sync` may be gone. Those are ends of trials, which the ledger has and tells again.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal at ``path``, creating it if missing."""
        self._path = path
        self._end, self._check = 0, ""  # up to where the file is known, and its last checksum there
        self._file_lock = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._file_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines, chained by checksums (`ddcal.study.record.chain`), of which Optuna takes no notice.

        Other programs (optuna-dashboard) may write too, without checksums, so each under the journal's lock.

        Raises:
            OSError: if the disk does not take them; then none of them is in the journal.
        """
        contents = [json.dumps(log, separators=(",", ":")).encode() for log in logs]
        self._file_lock.acquire()
        try:
            with self._path.open("ab", buffering=0) as stream:
                self._catch_up(os.fstat(stream.fileno()).st_size)
                check, lines = self._check, b""
                for content in contents:
                    line, check = seal(check, content)
                    lines += line
                write_whole(stream, lines)
                self._end, self._check = self._end + len(lines), check
        finally:
            self._file_lock.release()

    def _catch_up(self, size: int) -> None:
        """Take note of the lines that are there and not of this object."""
        if size == self._end:
            return
        with open_regular(self._path) as stream:
            stream.seek(self._end if size > self._end else 0)
            for line in stream:
                link = unseal("", line)
                self._check = self._check if link.after is None else link.check
        self._end = size

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())


def journal_fault(path: Path) -> str | None:
    """Return what is wrong with the lines that have checksums, or None: one was changed, or some are missing."""
    check = ""
    with open_regular(path) as stream:
        for number, line in enumerate(stream, start=1):
            link = unseal("", line)
            if link.after is None:
                continue
            if not link.whole:
                return f"the checksum of line {number} does not fit it"
            if link.after != check:
                return f"lines before line {number} are missing or were moved"
            check = link.check
    return None
