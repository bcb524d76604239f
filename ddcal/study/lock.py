"""The lock on a study's folder: one driver at a time, and a dead driver's lock is recognised as such."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from ddcal.errors import BadInput
from ddcal.pipeline.holder import Holder

LOCK = "driver.lock"


class DriverLock:
    """Held by the driver for as long as it works on a folder.

    The file names the holder; beside it, the holder keeps a lock of the kernel's, which ends with the process. A
    holder that seems dead but still has that one lives elsewhere: in another container of this machine, or on another
    machine of the same name.

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
            self._living = (directory / f".{LOCK}.living").open("w")
            try:
                self.taken_over = self._check(directory)
            except BaseException:
                self._living.close()
                raise
            temporary = self.path.with_name(f".{LOCK}.new")
            temporary.write_text(json.dumps(asdict(Holder.here())))
            os.replace(temporary, self.path)

    def release(self) -> None:
        """Give the lock back."""
        self.path.unlink(missing_ok=True)
        self._living.close()

    def _check(self, directory: Path) -> bool:
        alone = _flock(self._living)
        try:
            holder = Holder(**json.loads(self.path.read_text()))
        except FileNotFoundError:
            return False
        except (ValueError, TypeError) as error:
            raise BadInput(
                f"{self.path} is not a lock of ddcal ({error}): remove it if no driver is running"
            ) from error
        if not holder.dead or not alone:
            raise BadInput(
                f"{directory} is in use by process {holder.pid} on {holder.host}: wait for it or end it; "
                f"if that machine is gone for good, remove {self.path}"
            )
        return True


def _flock(stream: TextIO) -> bool:
    """Take the kernel's lock; False if another process has it. True where the file system knows none."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
