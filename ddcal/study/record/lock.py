"""The lock on a study's folder: one driver at a time, and a dead driver's lock is recognised as such."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

from ddcal.errors import BadInput
from ddcal.store.lock_holder import MAX_TEXT, Holder
from ddcal.study.record.scheduler import Job, Pod, parse_scheduled, scheduled_here
from ddcal.untrusted import Untrusted, open_lock, parse_json, read_bytes

LOCK = "driver.lock"

WAIT_SECONDS = 150.0
"""How long to wait for a job that is ending, and for the kernel's lock of a machine that is gone (NFS: 90 seconds)."""

RELEASE_SECONDS = 2.0
"""How long a driver may take from the removal of its file to the end of its process's lock."""


class DriverLock:
    """Held by the driver for as long as it works on a folder.

    The file names the holder; beside it, the holder keeps a lock of the kernel's, which ends with the process. A
    holder that seems dead but still has that one lives elsewhere: in another container of this machine, or on another
    machine of the same name.

    Attributes:
        taken_over: Whether a dead driver's lock was there.
    """

    def __init__(self, directory: Path, *, take_over: bool = False) -> None:
        """Take the lock, also over a dead driver's.

        Args:
            directory: The study's folder.
            take_over: Whether the scheduler is asked about a driver of another machine: it may prove that the job has
                ended.

        Raises:
            BadInput: if another driver holds it and is not proved dead, naming its process.
        """
        self.path = directory / LOCK
        with lock_file(directory / f".{LOCK}.guard") as guard:  # of several drivers, one looks at a time
            with suppress(OSError):  # a file system without locks
                fcntl.flock(guard, fcntl.LOCK_EX)
            self._living = lock_file(directory / f".{LOCK}.living")
            try:
                self.taken_over = self._check(directory, take_over)
            except BaseException:
                self._living.close()
                raise
            temporary = self.path.with_name(f".{LOCK}.new")
            temporary.unlink(missing_ok=True)  # a link, perhaps
            self._content = json.dumps(described()).encode()
            temporary.write_bytes(self._content)
            os.replace(temporary, self.path)

    def release(self) -> None:
        """Give the lock back if it is still this driver's; in a read-only folder, the end of this process does."""
        with suppress(OSError, Untrusted):
            if read_bytes(self.path, MAX_TEXT) == self._content:
                self.path.unlink(missing_ok=True)
        self._living.close()

    def _check(self, directory: Path, take_over: bool) -> bool:
        alone = _flock(self._living)
        try:
            content = read_bytes(self.path, MAX_TEXT)
            holder = Holder.parse(content)
        except FileNotFoundError:
            self._wait_until_alone(directory, alone)
            return False
        except ValueError as error:
            raise BadInput(
                f"{self.path} is not a lock of ddcal (it {error}): remove it if no driver is running"
            ) from error
        job = job_of(content)
        proved = False
        if take_over and holder.elsewhere and job is not None:
            deadline = time.monotonic() + WAIT_SECONDS
            while (job.ending or (job.ended and not alone)) and time.monotonic() < deadline:
                time.sleep(1.0)
                alone = alone or _flock(self._living)
            proved = job.ended
        if alone and (holder.dead or proved):
            return True
        raise BadInput(in_use(str(directory), holder, job, take_over, str(self.path)))

    def _wait_until_alone(self, directory: Path, alone: bool) -> None:
        """Wait for a driver that is giving its lock back; raise BadInput if the file was removed while one lives."""
        deadline = time.monotonic() + RELEASE_SECONDS
        while not (alone := alone or _flock(self._living)):
            if time.monotonic() > deadline:
                raise BadInput(
                    f"{directory} is in use: its {LOCK} was removed, but its driver still runs: end that one (if its "
                    "machine is gone, the file server notices within minutes)"
                )
            time.sleep(0.05)


def in_use(what: str, holder: Holder, job: Job | Pod | None, take_over: bool, lock: str) -> str:
    """Return that a driver may be at work, and what to do, in a sentence.

    Args:
        what: What it works on.
        holder: The driver.
        job: Its SLURM job or its pod, if it is in one.
        take_over: Whether SLURM or Kubernetes was asked about it.
        lock: Where its lock is.
    """
    used = f"{what} is in use by process {holder.pid} on {holder.host}: wait for it or end it"
    return f"{used}; {_advice(job, take_over, f'if that machine is gone for good, remove {lock}')}"


def _advice(job: Job | Pod | None, take_over: bool, remove: str) -> str:
    if job is None:
        said = "--take-over cannot tell, as it was in no job of SLURM's and no pod; " if take_over else ""
        return f"{said}{remove}"
    if not take_over:
        return f"if its {job.shown} has ended, --take-over finds that out and goes on"
    state = job.state()
    if state == "UNKNOWN":
        return f"--take-over: nothing here says how its {job.shown} is; {remove}"
    return f"--take-over: its {job.shown} is {state}"


def job_of(content: bytes) -> Job | Pod | None:
    """Return the SLURM job or the pod of a driver, from the content of its lock; None if it names none.

    Raises:
        ValueError: if the content is not JSON.
    """
    values = parse_json(content, max_bytes=MAX_TEXT)
    job = values.get("job") if isinstance(values, dict) else None
    return parse_scheduled(job) if isinstance(job, str) else None


def stop_driver(directory: Path) -> bool:
    """Have the driver of a study stop as SIGTERM does, and wait until it has; False if there is none.

    Args:
        directory: The study's folder.

    Raises:
        BadInput: if the driver is on another machine or in another container, or that cannot be told.
    """
    path = directory / LOCK
    try:
        holder = Holder.parse(read_bytes(path, MAX_TEXT))
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise BadInput(f"{path} is not a lock of ddcal (it {error})") from error
    if holder.elsewhere:
        raise BadInput(f"{directory}: its driver is process {holder.pid} on {holder.host}: stop it there")
    if holder.dead:
        return False
    with suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGTERM)
    while not holder.dead:
        time.sleep(0.1)
    return True


def described() -> dict[str, Any]:
    """Return a lock's content; it names a job only where there is one, so that earlier versions can read it."""
    job = scheduled_here()
    return asdict(Holder.here()) | ({} if job is None else {"job": str(job)})


def lock_file(path: Path) -> FileIO:
    """Return a file beside a study's to lock, open; it is made if it is missing and keeps what it holds.

    Raises:
        BadInput: if something else than a file lies there.
    """
    try:
        return open_lock(path)
    except Untrusted as error:
        raise BadInput(f"{path} {error}: remove it if no driver is running") from error


def _flock(stream: FileIO) -> bool:
    """Take the kernel's lock; False if another process has it. True where the file system knows none."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
