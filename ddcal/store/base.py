"""The artefact store: finished stages by key, on a file system or on S3, behind one interface.

An entry is the files that a stage left, and a ``manifest.json`` with the sha256 and size of each and a sha256 of
itself. The manifest comes last, so an entry is there in full or not at all. Publishing a key twice keeps the first.
What does not match its sums is never returned: the entry is set aside under ``damaged/`` and computed again.

Beside entries a store holds checkpoints of unfinished stages (``partial/``), notes on who refers to what
(``references/``) and, on file systems, leases (``leases/``).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddcal.errors import StoreError
from ddcal.store.manifest import MANIFEST, Entry, file_sha256, read_manifest

__all__ = ["MANIFEST", "Entry", "Item", "Store", "file_sha256"]

logger = logging.getLogger(__name__)

MAX_READ = 16_000_000
"""How large a file may be that is read as a whole: a manifest, a note, a list of keys."""


class NotAFile(StoreError):
    """Something else lies where a file of the store should be: a link, a FIFO, a folder, or a file far too large."""


@dataclass(frozen=True)
class Item:
    """A file of the store: its name from the store's root on, its size, and when it was written (store's clock)."""

    name: str
    bytes: int
    modified: float


class Store(ABC):
    """Entries of one place; safe for several processes and machines that publish the same keys.

    Attributes:
        place: The folder (absolute) or URL, as text.
        cache: The node-local folder of copies, if this store uses one.
    """

    place: str

    def __init__(self) -> None:
        self._verified: dict[str, Entry] = {}

    # Entries

    @abstractmethod
    def has(self, stage: str, key: str) -> bool:
        """Return whether the entry is there, without reading its files.

        Raises:
            StoreError: if the store cannot be read.
        """

    def get(self, stage: str, key: str) -> Entry | None:
        """Return the entry, its files on this machine, or None if it is not there; verified once by each `Store`.

        Raises:
            StoreError: if the store cannot be read, or a damaged entry cannot be set aside.
        """
        known = self._verified.get(key)
        if known is not None and known.whole and self.has(stage, key):
            return known
        content = None
        try:
            content = self.read(f"{stage}/{key}/{MANIFEST}")
            if content is None and not self._half_written(stage, key):
                return None
            manifest = read_manifest(content, stage, key)
            folder, fault = self._bring(manifest)
        except (ValueError, NotAFile) as error:
            fault = str(error)
        if fault is not None:
            self._verified.pop(key, None)
            target = self._set_aside(stage, key, content)
            logger.warning(
                "artefact %s/%s is damaged (%s): set aside as %s and computed again", stage, key, fault, target
            )
            return None
        files = {name: record["sha256"] for name, record in manifest["files"].items()}
        entry = Entry(stage, key, folder, manifest["meta"], files)
        self._verified[key] = entry
        return entry

    @abstractmethod
    def publish(self, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
        """Write an entry and return it; if the key is there already, the first one stays and is returned.

        Args:
            stage: The stage's name.
            key: Its key.
            write: Puts the files into the folder it is given and returns the entry's ``meta`` (JSON values).

        Raises:
            StoreError: if the disk is full or the store cannot be written.
        """

    @abstractmethod
    def remove(self, stage: str, key: str) -> None:
        """Remove an entry; nobody sees half of it.

        Raises:
            StoreError: if it cannot be removed.
        """

    @abstractmethod
    def keys(self, stage: str) -> Iterator[tuple[str, bytes | None]]:
        """Yield (key, its manifest's bytes) of a stage; None where files lie without one and nobody writes them.

        None, too, where something else lies in the manifest's place.
        """

    @abstractmethod
    def fault(self, stage: str, key: str, content: bytes | None) -> str | None:
        """Return what is wrong with an entry after reading all of the store's own files, or None if it is whole."""

    @abstractmethod
    def file(self, stage: str, key: str, name: str) -> Path | None:
        """Return one file of an entry on this machine, or None if it is not there."""

    # Checkpoints of unfinished stages

    def save_partial(self, key: str, state: dict[str, Any]) -> None:
        """Keep the state of an unfinished stage (tensors and plain values), replacing the last one in one step.

        Raises:
            StoreError: if it cannot be written.
        """
        from ddcal.store.checkpoint import pack_state

        try:
            self.write(_partial(key), pack_state(state))
        except StoreError as error:
            raise StoreError(f"the checkpoint {_partial(key)} cannot be written: {error}") from error

    def load_partial(self, key: str) -> dict[str, Any] | None:
        """Return the state of an unfinished stage, or None; a damaged one is dropped with a warning."""
        from ddcal.store.checkpoint import MAX_CHECKPOINT, unpack_state

        try:
            content = self.read(_partial(key), MAX_CHECKPOINT)
            return None if content is None else unpack_state(content)
        except (ValueError, NotAFile) as error:
            logger.warning("the checkpoint %s of %s is damaged (%s) and dropped", _partial(key), self.place, error)
            self.delete(_partial(key))
            return None

    def drop_partial(self, key: str) -> None:
        """Remove the checkpoint of a stage, if there is one."""
        self.delete(_partial(key))

    # Single files by name

    @abstractmethod
    def read(self, name: str, max_bytes: int = MAX_READ) -> bytes | None:
        """Return a file's bytes, or None if there is none.

        Raises:
            NotAFile: if it is none, or is larger than ``max_bytes``.
            StoreError: if the store cannot be read.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file in one step, over what is there.

        Args:
            name: The file's name from the store's root on.
            content: Its bytes.
            sync: Whether it is on the disk (fsync) before this returns.

        Raises:
            StoreError: if the store cannot be written.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, or what lies in its place, if it is there.

        Raises:
            StoreError: if the store cannot be written.
        """

    @abstractmethod
    def listing(self, folder: str) -> list[Item]:
        """Return every file below a folder; none if there is no such folder."""

    @abstractmethod
    def sweep(self, before: float, spare: Callable[[str], bool], kinds: Iterable[str]) -> None:
        """Remove what killed workers left.

        Args:
            before: Only what is older than this time, in seconds since 1970.
            spare: Whether the checkpoint of a key stays.
            kinds: Folders of entries, in which files without a manifest may lie.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise StoreError if the place cannot be read; makes no file."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise StoreError if the place cannot be written: asked before work that could not be kept."""

    # What the two kinds of store do differently inside `get`

    @abstractmethod
    def _bring(self, manifest: dict[str, Any]) -> tuple[Path, str | None]:
        """Return the folder of an entry's files on this machine, and what is wrong with them, or None."""

    @abstractmethod
    def _set_aside(self, stage: str, key: str, content: bytes | None) -> str:
        """Move a damaged entry, whose manifest had these bytes, out of the way, and return where it lies then."""

    @abstractmethod
    def _half_written(self, stage: str, key: str) -> bool:
        """Return whether files lie there without a manifest that nobody is about to complete."""


def _partial(key: str) -> str:
    return f"partial/{key}.pt"
