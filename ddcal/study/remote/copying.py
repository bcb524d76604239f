"""The thread that copies a study's ledger to S3 while the study runs, and other files of its folder behind it.

The ledger on the driver's disk comes first and is the truth for this driver; S3 may be away for as long as it likes.
What makes the copy safe is that a part is written once: a driver whose next part is there already, written by another
one, has lost the study to that one, and stops.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ddcal.errors import BadInput, StoreError
from ddcal.store.bucket import Bucket
from ddcal.study.record.confirmation import CONFIRMATION
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.recorded import LOGS
from ddcal.study.record.results import PARETO, SUMMARY, TRIALS
from ddcal.study.remote.bucket_lock import BucketLock
from ddcal.study.remote.parts import Parts, pack, part_name, unpack

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
GATHER_SECONDS = 0.2
"""How long an event waits for those that come right behind it: they go in one part."""

POINTS_SECONDS = 30.0
"""How long points of progress wait at most; every other event is sent at once."""

LOGS_SECONDS = 30.0
"""How often logs that have grown are sent."""

RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waits between attempts; the last one repeats."""

CLOSE_SECONDS, CLOSE_SECONDS_HURRIED = 300.0, 20.0
"""How long the end of a study waits while nothing arrives on S3; less where a signal has ended it."""

MOST_BYTES = 2**23
"""A part has no more than about so many bytes."""

FILES = "files"
TABLES = (STUDY, TRIALS, PARETO, SUMMARY, CONFIRMATION)
_AT_ONCE = re.compile(rb'^\{"event": "(?!trial_points|gpu_measured)', re.MULTILINE)
_ENDED = re.compile(rb'^\{"event": "trial_finished", "time": \d+, "number": (\d+)', re.MULTILINE)


class Copying:
    """A study's ledger on its way to S3, for as long as a driver works on the study.

    Attributes:
        missing: After `close`, what S3 does not have, in a sentence; None if it has everything.
    """

    def __init__(self, bucket: Bucket, directory: Path, lock: BucketLock, there: Parts) -> None:
        """Prepare.

        Args:
            bucket: The study's place on S3.
            directory: The study's folder.
            lock: The lock on that place, given back at the end.
            there: What S3 has of the ledger: the one in the folder begins with it.
        """
        self._bucket, self._directory, self._lock = bucket, directory, lock
        self._parts, self._lines, self._offset = there.count, there.lines, len(there.content)
        self._by = f"process {os.getpid()} on {socket.gethostname()}"
        self._token = uuid.uuid4().hex
        self._waiting: tuple[bytes, int] | None = None  # a part that may have arrived, and its lines' bytes
        self._sizes: dict[str, int] | None = None  # of the files that S3 has
        self._files: dict[str, tuple[int, int]] = {}
        self._until: float | None = None  # when the end of a study waits no longer for other files
        self._looked = time.monotonic()
        self._fresh = time.monotonic()  # since when points wait
        self._failures = 0
        self._moved = 0.0
        self._refused: BadInput | None = None
        self._closing = threading.Event()
        self._given_up = False
        self._thread: threading.Thread | None = None
        self.missing: str | None = None

    def begin(self) -> None:
        """Send what there is, in this thread, and then go on in another: two drivers that begin at once part here.

        Raises:
            BadInput: if another driver has gone on with the study.
            StoreError: if S3 cannot be reached or refuses.
        """
        while self._send(everything=True):
            pass
        self._thread = threading.Thread(target=self._follow, name="ddcal-s3", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise BadInput if another driver has gone on with the study: this one must not."""
        if self._refused is not None:
            raise self._refused

    @property
    def copied(self) -> int:
        """How many bytes of the ledger S3 has."""
        return self._offset

    def finish(self, *, hurried: bool = False) -> None:
        """Wait until S3 has the whole ledger, which grows no more, but not for an S3 that takes nothing.

        Args:
            hurried: Whether whoever has ended the study will not wait.
        """
        self._closing.set()
        try:
            size = (self._directory / LEDGER).stat().st_size
        except OSError:
            size = 0
        self._wait(lambda: self._offset >= size, hurried)

    def close(self, *, hurried: bool = False) -> None:
        """Wait until S3 has everything, as `finish` does, and give the lock back.

        Args:
            hurried: As of `finish`.
        """
        self._until = time.monotonic() + CLOSE_SECONDS_HURRIED if hurried else None
        self.finish(hurried=hurried)
        self._wait(lambda: False, hurried)
        self.missing = self._what_is_missing()
        if self.missing is None or not self._given_up:
            self._lock.release()
        if self.missing is not None and hurried:
            logger.warning("%s", self.missing)
        elif self.missing is None and self._given_up:
            logger.warning("storage.output: %s has the ledger, but not all logs and tables", self._bucket.url)

    def _wait(self, over: Callable[[], bool], hurried: bool) -> None:
        """Wait for the thread to end, or until something is over, or for too long while nothing arrives."""
        self._moved = time.monotonic()
        patience = CLOSE_SECONDS_HURRIED if hurried else CLOSE_SECONDS
        while self._thread is not None and self._thread.is_alive() and not self._given_up and not over():
            self._given_up = time.monotonic() - self._moved > patience
            self._thread.join(0.05)

    def _follow(self) -> None:
        while not self._given_up and self._refused is None:
            closing = self._closing.is_set()
            try:
                moved = self._send(everything=closing) or self._send_file(closing)
            except BadInput as error:
                logger.warning("%s", error)
                return
            except (StoreError, OSError) as error:
                if not self._failures:
                    logger.warning("storage.output: %s; the study goes on, and it is tried again", error)
                wait = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
                self._failures += 1
                if self._closing.wait(wait):
                    time.sleep(min(wait, 1.0))
                continue
            if moved:
                self._moved = time.monotonic()
                if self._failures:
                    logger.warning("storage.output: %s takes the ledger again", self._bucket.url)
                self._failures = 0
            elif closing:
                return
            else:
                self._closing.wait(POLL_SECONDS)

    # The ledger

    def _send(self, *, everything: bool) -> bool:
        """Send the next part, if there is one to be sent now.

        Args:
            everything: Whether what could wait is sent, too.

        Raises:
            BadInput: if another driver has written a part of that number.
            StoreError: if it does not arrive.
        """
        if self._waiting is None:
            lines = self._next_lines()
            if not lines or not (everything or self._due(lines)):
                return False
            if not everything:
                time.sleep(GATHER_SECONDS)
                lines = self._next_lines()
            self._waiting = pack(self._parts + 1, self._lines + 1, lines, self._by, self._token), len(lines)
        part, size = self._waiting
        name = part_name(self._parts + 1)
        if not self._bucket.create(name, part):
            there = self._bucket.read(name)
            if there is None:
                raise StoreError(f"{self._bucket.where(name)} was there, and is not any more")
            if there.content != part:
                self._refused = BadInput(self._lost_to(name, there.content))
                raise self._refused
        self._parts, self._waiting = self._parts + 1, None
        self._lines, self._offset = self._lines + part.count(b"\n") - 1, self._offset + size
        self._fresh = time.monotonic()
        return True

    def _next_lines(self) -> bytes:
        """Return whole lines of the ledger that S3 does not have: as many as fit in a part, but at least one."""
        with (self._directory / LEDGER).open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read(MOST_BYTES)
            if b"\n" not in content:
                content += stream.readline()
        return content[: content.rfind(b"\n") + 1]

    def _due(self, lines: bytes) -> bool:
        return _AT_ONCE.search(lines) is not None or time.monotonic() - self._fresh > POINTS_SECONDS

    def _lost_to(self, name: str, content: bytes) -> str:
        try:
            who = unpack(content)[0].by
        except ValueError:
            who = "something else than a driver"
        return (
            f"{self._bucket.where(name)} was written by {who}: another driver has gone on with this study, so this one "
            f"stops; what it has done since is in {self._directory} alone, and is no part of the study"
        )

    def _what_is_missing(self) -> str | None:
        if self._refused is not None:
            return None  # it is another driver's now
        try:
            with (self._directory / LEDGER).open("rb") as stream:
                stream.seek(self._offset)
                left = stream.read()
        except OSError:
            return None
        lines = left.count(b"\n")
        if not lines:
            return None
        ended = [int(number) for number in _ENDED.findall(left)]
        results = f", with the results of trials {', '.join(map(str, ended))}" if ended else ""
        return (
            f"storage.output: {self._bucket.url} lacks the last {lines} lines of the ledger{results}: run the same "
            "command again on this machine, and they are sent; on another one those trials run again"
        )

    # Other files, of which none is needed to go on

    def _send_file(self, closing: bool) -> bool:
        """Send one file that S3 does not have as it is; at the end tables and pictures too."""
        now = time.monotonic()
        if (not closing and now - self._looked < LOGS_SECONDS) or (self._until is not None and now > self._until):
            return False
        if self._sizes is None:
            self._sizes = {name.removeprefix(f"{FILES}/"): size for name, size in self._bucket.names(FILES).items()}
        for path in folder_files(self._directory, logs_alone=not closing):
            try:
                status = path.stat()
                state = status.st_mtime_ns, status.st_size
                name = path.relative_to(self._directory).as_posix()
                if self._files.get(name) == state or (path.suffix == ".log" and self._sizes.get(name) == state[1]):
                    continue
                content = path.read_bytes()
            except OSError:  # it was replaced or removed just now
                continue
            self._bucket.write(f"{FILES}/{name}", content)
            self._files[name] = state
            return True
        self._looked = now
        return False


def folder_files(directory: Path, *, logs_alone: bool = False) -> Iterator[Path]:
    """Yield the files of a study's folder that are copied beside its ledger: logs, tables, pictures.

    Args:
        directory: The folder.
        logs_alone: Whether only the logs are wanted.
    """
    yield from sorted((directory / LOGS).glob("*.log"))
    if not logs_alone:
        yield from (directory / name for name in TABLES if (directory / name).is_file())
        yield from sorted((directory / "figures").rglob("*.png"))
