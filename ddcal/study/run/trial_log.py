"""A trial's log file: what ddcal's own loggers say while the trial runs."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

from ddcal.errors import StoreError

_LOGGER = logging.getLogger("ddcal")


class TrialLog:
    """Takes the messages of ``ddcal`` into a file, from now on until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open the file, and its folder.

        Raises:
            StoreError: if it cannot be written.
        """
        _LOGGER.setLevel(logging.INFO)
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _Handler(path)
        except OSError as error:
            raise self._unwritable(error) from error
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        _LOGGER.addHandler(self._handler)

    def check(self) -> None:
        """Raise StoreError if a message could not be written."""
        if self._handler.error is not None:
            raise self._unwritable(self._handler.error) from self._handler.error

    def close(self) -> None:
        """Take no more messages; what a full disk has refused is dropped."""
        _LOGGER.removeHandler(self._handler)
        with suppress(OSError):
            self._handler.close()

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"the log {self.path} cannot be written: {error.strerror or error}")


class _Handler(logging.FileHandler):
    """Keeps the first error of its file, where logging would print a traceback at every message."""

    error: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        found = sys.exc_info()[1]
        if isinstance(found, OSError):
            self.error = self.error or found
        else:
            super().handleError(record)
