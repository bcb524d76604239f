"""The ledger: an append-only file of events, written by the driver alone; the truth about every trial of a study."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["complete", "pruned", "failed", "out_of_memory", "infeasible", "killed"]

LEDGER = "ledger.jsonl"

FIDELITY_STEPS = 1000
"""``fidelity`` is ``progress`` in thousandths: the time of schedulers and the step of MLflow's metrics."""


class Ledger:
    """Events as JSON lines with the time in milliseconds."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of a study's folder, creating it if missing; a half-written last line is cut off."""
        self.path = directory / LEDGER
        self._stream = self.path.open("ab", buffering=0)  # a buffer would keep what a full disk has refused
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            self._stream.truncate(content.rfind(b"\n") + 1)

    def append(self, event: str, *, sync: bool = True, **values: Any) -> None:
        """Write one event; NaN and infinities become null.

        Args:
            event: Its name.
            sync: Whether it is on the disk (fsync) before this returns; otherwise it is with the next one that is.
            values: Its JSON values.

        Raises:
            OSError: if the disk does not take it; then nothing of it is in the ledger.
        """
        content = {"event": event, "time": int(time.time() * 1000), **_finite(values)}
        write_whole(self._stream, json.dumps(content, allow_nan=False).encode() + b"\n")
        if sync:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def write_whole(stream: FileIO, content: bytes) -> None:
    """Append bytes to an unbuffered file; what a full disk took of them is cut off again.

    Raises:
        OSError: if the disk does not take them all.
    """
    before = os.fstat(stream.fileno()).st_size
    try:
        left = memoryview(content)
        while left:
            left = left[stream.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            stream.truncate(before)
        raise


def begun(directory: Path | str) -> bool:
    """Return whether the folder has a ledger with its first line whole."""
    try:
        with (Path(directory) / LEDGER).open("rb") as stream:
            return stream.readline().endswith(b"\n")
    except OSError:
        return False


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
