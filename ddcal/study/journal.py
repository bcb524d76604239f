"""Optuna's journal, brought to the disk when the driver needs it there instead of after every line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from ddcal.study.ledger import write_whole


class DriverJournal(JournalFileBackend):
    """A journal file without an fsync a line: a trial writes half a dozen lines, and one `sync` does for all.

    A driver that is killed loses nothing: what is written is the kernel's. If the machine itself goes down, the lines
    since the last `sync` may be gone. Those are ends of trials, which the ledger has and tells again.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal at ``path``, creating it if missing."""
        self._path = path
        self._file_lock = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self._file_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines; other programs (optuna-dashboard) may write too, so each under the journal's lock.

        Raises:
            OSError: if the disk does not take them; then none of them is in the journal.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._file_lock.acquire()
        try:
            with self._path.open("ab", buffering=0) as stream:
                write_whole(stream, lines.encode())
        finally:
            self._file_lock.release()

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())
