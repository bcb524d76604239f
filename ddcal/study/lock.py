"""The lock on a study's folder: one driver at a time, and a dead driver's lock is recognised as such."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path

from ddcal.errors import BadInput
from ddcal.pipeline.holder import Holder

LOCK = "driver.lock"


class DriverLock:
    """Held by the driver for as long as it works on a folder.

    Attributes:
        taken_over: Whether a dead driver's lock was there.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock, also over a dead driver's.

        Raises:
            BadInput: if another driver holds it and is not proved dead, naming its process.
        """
        self.path = directory / LOCK
        with (directory / f".{LOCK}.guard").open("w") as guard:  # of several drivers, one looks at a time
            fcntl.flock(guard, fcntl.LOCK_EX)
            self.taken_over = self._check(directory)
            temporary = self.path.with_name(f".{LOCK}.new")
            temporary.write_text(json.dumps(asdict(Holder.here())))
            os.replace(temporary, self.path)

    def release(self) -> None:
        """Give the lock back."""
        self.path.unlink(missing_ok=True)

    def _check(self, directory: Path) -> bool:
        try:
            holder = Holder(**json.loads(self.path.read_text()))
        except FileNotFoundError:
            return False
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"{self.path} is not a lock of ddcal ({error}): remove it if no driver is running"
            ) from error
        if not holder.dead:
            raise BadInput(
                f"{directory} is in use by process {holder.pid} on {holder.host}: wait for it or end it; "
                f"if that machine is gone for good, remove {self.path}"
            )
        return True
