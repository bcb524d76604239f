"""The lock on a study's output on S3: one driver at a time, wherever the drivers are."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from ddcal.errors import BadInput, ResourceError, StoreError
from ddcal.store.bucket import Bucket, Found
from ddcal.store.lock_holder import MAX_TEXT, Holder
from ddcal.study.record.lock import LOCK, WAIT_SECONDS, described, in_use, job_of
from ddcal.untrusted import Untrusted, read_bytes

logger = logging.getLogger(__name__)

COPY = f".{LOCK}.s3"
"""A copy of the lock in the study's folder: by it the next driver there knows its own former lock again."""

ATTEMPTS = 5
"""How often a lock is tried to take that others give back and take meanwhile."""


class BucketLock:
    """Held by the driver for as long as it works on a study with its output on S3.

    The object names the holder, as the file in a study's folder does (`ddcal.study.record.lock`). Nothing proves that
    a holder is alive: what a driver writes that is wrongly taken for dead is refused, since each part of the ledger is
    written once (`ddcal.study.remote.parts`).
    """

    def __init__(self, bucket: Bucket, directory: Path, *, take_over: bool = False) -> None:
        """Take the lock, also over a dead driver's, and over that of any former driver on the same folder.

        Args:
            bucket: The study's place.
            directory: The study's folder, locked by this driver.
            take_over: Whether the scheduler is asked about a driver of another machine.

        Raises:
            BadInput: if another driver holds it and is not proved dead, naming its process.
            ResourceError: if the server would write over what another driver has written.
            StoreError: if S3 cannot be reached or refuses.
        """
        self._bucket, self._copy = bucket, directory / COPY
        self._former = _former(directory)
        self._content = json.dumps(described() | {"token": uuid.uuid4().hex}).encode()
        for _ in range(ATTEMPTS):
            if self._taken(take_over):
                break
        else:
            raise BadInput(f"{bucket.url}: several drivers take and give back its lock: let one alone run")
        if bucket.create(LOCK, self._content):
            raise ResourceError(
                f"storage.output: the server of {bucket.url} does not know If-None-Match: it would let two drivers "
                "write the same part of a ledger; take one that does (Amazon's S3 does)"
            )

        temporary = self._copy.with_name(f"{COPY}.new")
        temporary.write_bytes(self._content)
        os.replace(temporary, self._copy)

    def release(self) -> None:
        """Give the lock back, if it is still this driver's; what S3 refuses is a warning."""
        try:
            there = self._bucket.read(LOCK)
            if there is not None and there.content == self._content:
                self._bucket.delete(LOCK)
        except StoreError as error:
            logger.warning("the lock of this driver stays on S3: %s", error)

    def _taken(self, take_over: bool) -> bool:
        """Return whether the lock is ours now; False to try again."""
        if self._bucket.create(LOCK, self._content):
            return True
        there = self._bucket.read(LOCK)
        if there is None:  # given back just now
            return False
        if there.content == self._content:  # ours: only S3's answer was lost
            return True
        if there.content != self._former:
            refuse_living(self._bucket, there, take_over)
        return self._bucket.replace(LOCK, self._content, there.etag)


def driver_elsewhere(bucket: Bucket, directory: Path) -> Found | None:
    """Return the lock on S3 of a driver that may be at work on a study, in another folder than this one."""
    there = bucket.read(LOCK)
    if there is None or there.content == _former(directory):
        return None
    with suppress(ValueError):
        if Holder.parse(there.content).dead:
            return None
    return there


def _former(directory: Path) -> bytes:
    """Return the last lock that a driver of a folder took: it has given the folder back, or is dead."""
    try:
        return read_bytes(directory / COPY, MAX_TEXT)
    except (OSError, Untrusted):
        return b""


def refuse_living(bucket: Bucket, there: Found, take_over: bool) -> None:
    """Raise BadInput if the driver that a lock names is not proved dead and does not give the lock back."""
    try:
        holder, job = Holder.parse(there.content), job_of(there.content)
    except ValueError as error:
        raise BadInput(
            f"{bucket.where(LOCK)} is not a lock of ddcal (it {error}): remove it if no driver is running"
        ) from error
    if holder.dead:
        return
    if take_over and holder.elsewhere and job is not None:
        deadline = time.monotonic() + WAIT_SECONDS
        while job.ending and time.monotonic() < deadline:
            time.sleep(1.0)
            if bucket.read(LOCK) != there:  # given back, as a driver that is told to stop does
                return
        if job.ended:
            return
    raise BadInput(in_use(bucket.url, holder, job, take_over, bucket.where(LOCK)))
