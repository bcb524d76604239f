"""Leases: of several trials that miss the same stage one computes it, and the others wait.

Best effort: correctness never depends on a lease. Whatever goes wrong with one (a read-only folder, a lost network, two
that were taken at once) leads to the same stage being computed twice, to the same bytes. A lease ends when its holder
gives it back or dies; a process never waits for itself.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import uuid
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ddcal.store.base import Store
from ddcal.store.folder import FileStore
from ddcal.store.lock_holder import MAX_TEXT, Holder
from ddcal.untrusted import Untrusted, open_regular, read_bytes

BEAT_SECONDS, EXPIRY_SECONDS = 3.0, 15.0
"""A holder shows every few seconds that it lives; without that a lease ends after the second time."""

FOLDER = "leases"


class Lease(Protocol):
    """The right to compute a stage, until `release`."""

    def release(self) -> None:
        """Give the lease back; a second time does nothing."""


class Leases(Protocol):
    """The leases of one store."""

    def take(self, key: str) -> Lease | None:
        """Return the lease on a stage's key, or None while another process has it; never raises."""

    def held(self, key: str) -> bool:
        """Return whether another process has the lease on a key; never raises."""


class FreeLease:
    """A lease that excludes nobody."""

    def release(self) -> None:
        """Do nothing."""


class NoLeases:
    """Where nobody can tell what others compute: on S3 without Ray."""

    def take(self, key: str) -> Lease | None:
        """Return a lease that excludes nobody."""
        return FreeLease()

    def held(self, key: str) -> bool:
        """Return False."""
        return False


def open_leases(store: Store) -> Leases:
    """Return the leases of a store without Ray: files beside a folder's entries, none on S3."""
    return FileLeases(store.root) if isinstance(store, FileStore) else NoLeases()


class FileLeases:
    """Lease files ``<store>/leases/<key>.json``, touched by a thread of the holder.

    Times are compared on the file system's own clock, so those of the machines do not matter.
    """

    def __init__(self, root: Path, beat: float = BEAT_SECONDS, expiry: float = EXPIRY_SECONDS) -> None:
        """Use ``<root>/leases``.

        Args:
            root: The store's folder.
            beat: How often a holder shows that it lives, in seconds.
            expiry: After how many seconds without that a lease has ended.
        """
        self.folder, self._beat, self._expiry = root / FOLDER, beat, expiry

    def take(self, key: str) -> Lease | None:
        """Return the lease, also over a dead holder's; None while another process has it."""
        path = self.folder / f"{key}.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder.is_symlink():  # nothing is written through it
                return FreeLease()
            for _ in range(2):
                try:
                    return _FileLease(path, self._beat)
                except FileExistsError:
                    there = self._look(path)
                if there is None:
                    continue
                text, alive = there
                if _is_mine(text):
                    return FreeLease()
                if alive or not _take_away(path, text):
                    return None
        except (OSError, Untrusted):
            return FreeLease()
        return None

    def held(self, key: str) -> bool:
        """Return whether another process has the lease on a key."""
        try:
            there = self._look(self.folder / f"{key}.json")
        except (OSError, Untrusted):
            return False
        return there is not None and there[1] and not _is_mine(there[0])

    def _look(self, path: Path) -> tuple[bytes, bool] | None:
        """Return a lease's text and whether it holds; None if there is none."""
        try:
            with open_regular(path, max_bytes=MAX_TEXT) as stream:  # makes a network file system ask its server
                text, touched = stream.read(MAX_TEXT), os.fstat(stream.fileno()).st_mtime
        except FileNotFoundError:
            return None
        holder = _holder(text)
        if holder is not None and holder.dead:
            return text, False
        with tempfile.TemporaryFile(dir=self.folder) as probe:
            now = os.fstat(probe.fileno()).st_mtime
        return text, abs(now - touched) <= self._expiry  # one from the future: the clock was set back, and nobody beats


class _FileLease:
    """A lease file of this process.

    The beating thread knows the open file alone: where another process has taken the lease away (this one was stopped
    for a while), it touches a file that nobody sees any more.
    """

    def __init__(self, path: Path, beat: float) -> None:
        self._path = path
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            os.write(descriptor, json.dumps(asdict(Holder.here()) | {"token": uuid.uuid4().hex}).encode())
        except OSError:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        self._release = beating(beat, lambda: os.utime(descriptor), lambda: _give_back(path, descriptor), self)

    def release(self) -> None:
        """Remove the lease file, if it is still this one's."""
        self._release()


def beating(seconds: float, beat: Callable[[], None], end: Callable[[], None], owner: object) -> Callable[[], None]:
    """Call ``beat`` in a thread every so many seconds until the function that is returned is called, then ``end``.

    That happens by itself when ``owner`` is forgotten or the process ends in an orderly way.
    """
    stop, process = threading.Event(), os.getpid()

    def run() -> None:
        while not stop.wait(seconds):
            try:
                beat()
            except Exception:  # the lease is lost, or the next beat succeeds
                continue

    def finish() -> None:
        if os.getpid() != process:  # a fork has no thread and no lease
            return
        stop.set()
        if threading.current_thread() is not thread:
            thread.join(seconds)
        end()

    thread = threading.Thread(target=run, name="ddcal-lease", daemon=True)
    thread.start()
    return weakref.finalize(owner, finish)


def _give_back(path: Path, descriptor: int) -> None:
    try:
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            path.unlink()
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _take_away(path: Path, text: bytes) -> bool:
    """Remove an ended lease, but only the one with this text: two waiters may have seen it."""
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return True
    try:
        if read_bytes(grave, MAX_TEXT) == text:
            return True
        os.link(grave, path)  # another waiter's new lease: put it back
        return False
    finally:
        grave.unlink(missing_ok=True)


def _holder(text: bytes) -> Holder | None:
    try:
        return Holder.parse(text)
    except ValueError:
        return None  # just made, and not written yet


def _is_mine(text: bytes) -> bool:
    return _holder(text) == Holder.here()
