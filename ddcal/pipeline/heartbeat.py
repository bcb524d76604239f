"""What a trial's worker is at: a small file beside the trial's log, for whoever looks on, on whatever machine.

The ledger knows a trial's fidelity points, which may lie minutes or hours apart. Nothing depends on this file: it is
replaced every few seconds, goes when the worker ends, and is left out where it cannot be written.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

HEARTBEAT_SECONDS = 2.0
"""How often, at most, a worker says what it is at."""

STAGE_SECONDS = 0.2
"""How often, at most, it says that a stage has ended."""

MAX_BYTES = 1000
"""No file of a heartbeat is larger."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Heartbeat(BaseModel):
    """What a worker is at.

    Attributes:
        attempt: Which attempt at its trial this is.
        stage: The stage that it has worked on last.
        fraction: The share of the stage that is done, in [0, 1].
        progress: The share of the trial that is done, in [0, 1].
        waiting: Whether it waits for another process that computes the stage.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    attempt: int
    stage: Annotated[str, Field(max_length=40)]
    fraction: Share
    progress: Share
    waiting: bool = False


class Heart:
    """Writes the heartbeats of one trial, not too often."""

    def __init__(self, log: Path, attempt: int) -> None:
        """Write beside the trial's ``log``, for this attempt at it."""
        self._path, self._attempt = heartbeat_file(log), attempt
        self._written = -HEARTBEAT_SECONDS

    def beat(self, stage: str, fraction: float, progress: float, waiting: bool = False) -> None:
        """Write a `Heartbeat` if the last one is old enough; a full disk and the like are ignored."""
        now = time.monotonic()
        if now - self._written < (STAGE_SECONDS if fraction >= 1.0 else HEARTBEAT_SECONDS):
            return
        self._written = now
        found = Heartbeat(attempt=self._attempt, stage=stage, fraction=fraction, progress=progress, waiting=waiting)
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(found.model_dump_json())
            os.replace(temporary, self._path)

    def stop(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def heartbeat_file(log: Path) -> Path:
    """Return where a trial's heartbeats are, beside its log."""
    return log.with_name(f".{log.stem}.now")
