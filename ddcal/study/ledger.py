"""The ledger: an append-only file of events, written by the driver alone; the truth about every trial of a study."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["complete", "pruned", "failed", "out_of_memory", "infeasible", "killed"]

LEDGER = "ledger.jsonl"


class Ledger:
    """Events as JSON lines; each is on the disk (fsync) before `append` returns."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of a study's folder, creating it if missing; a half-written last line is cut off."""
        self.path = directory / LEDGER
        self._stream = self.path.open("ab")
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            self._stream.truncate(content.rfind(b"\n") + 1)

    def append(self, event: str, **values: Any) -> None:
        """Write one event; NaN and infinities become null."""
        line = json.dumps({"event": event, **_finite(values)}, sort_keys=True, allow_nan=False)
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def read_ledger(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a study's folder, oldest first; a half-written last line is left out.

    Raises:
        FileNotFoundError: if the folder has no ledger.
    """
    with (directory / LEDGER).open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
