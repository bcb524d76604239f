"""Who refers to what in an artefact store, so that pruning never removes what a study or an export still needs.

A study and an export leave a note in the store: ``references/<name>.json`` says where they lie, and
``references/<name>/*.json`` which keys they use. Where a folder and its store lie below one output root, the note has
the way from the store to the folder, so it still holds when the root was moved or copied; else it has the folder's path
and the machine.

What is noted counts until it is forgotten (`forget`): that a folder is not where the note says tells nobody that it is
gone. What the folder itself names counts beside it, and so do studies beside the store that use it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ddcal.config.reading.yaml_reader import MAX_BYTES, parse_yaml
from ddcal.errors import MAKE_WRITABLE, BadInput, StoreError
from ddcal.pipeline.stages import ENTRIES
from ddcal.pipeline.upkeep import list_entries
from ddcal.store.base import Store
from ddcal.store.folder import FileStore
from ddcal.study.record.events import StudyResumed, StudyStarted, TrialFinished, TrialStarted
from ddcal.study.record.ledger import LEDGER, begun, read_ledger
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.recorded import recorded_store
from ddcal.untrusted import parse_json, read_bytes

logger = logging.getLogger(__name__)

REFERENCES = "references"
KEYS_A_FILE = 200
"""A note's keys are written in files of so many, of which only the last is written again."""

Kind = Literal["study", "export"]


class Reference:
    """The note of one study or export in a store."""

    def __init__(self, store: Store, kind: Kind, folder: Path, root: Path, identity: str) -> None:
        """Prepare a note; nothing is written yet.

        Args:
            store: Where the note goes.
            kind: Whose note it is.
            folder: The folder of the study or export, absolute.
            root: The output root of the study, absolute.
            identity: The study's id, or the key of the exported trial: another one in the same place has its own note.
        """
        self._store = store
        place, machine = _place(store, folder, root)
        self._note = {"kind": kind, "folder": place, "machine": machine}
        digest = hashlib.sha256(f"{machine} {place} {identity}".encode()).hexdigest()[:32]
        self._name = f"{REFERENCES}/{digest}"
        self._keys: dict[str, None] = {}
        self._written = -1  # keys in the store; -1: not even the note
        self._told = False

    def add(self, keys: Iterable[str]) -> None:
        """Take up keys; `write` puts them into the store."""
        self._keys.update(dict.fromkeys(keys))

    def write(self, *, needed: bool = True) -> None:
        """Write what is new; what a store that may only be read does not take is told once, and tried again.

        Raises:
            StoreError: if it is ``needed`` and the store takes nothing, for example because its disk is full.
        """
        try:
            if self._written < 0:
                self._store.write(f"{self._name}.json", json.dumps(self._note).encode())
                self._written = 0
            keys = list(self._keys)
            for start in range(self._written - self._written % KEYS_A_FILE, len(keys), KEYS_A_FILE):
                part = keys[start : start + KEYS_A_FILE]
                if start + len(part) > self._written:
                    number = start // KEYS_A_FILE
                    self._store.write(f"{self._name}/{number:04d}.json", json.dumps(part).encode(), sync=False)
                    self._written = start + len(part)
        except StoreError as error:
            if needed and error.cure != MAKE_WRITABLE:
                raise
            if not self._told:
                logger.warning("what this study uses cannot be noted in the store, so pruning may remove it: %s", error)
            self._told = True


@dataclass(frozen=True)
class Referrer:
    """A study or an export that refers to a store.

    Attributes:
        name: The file of its note; None for a study beside the store that has left none.
        place: The folder as it is noted.
        folder: Where it lies, or would lie if it were there.
        found: Whether it is there.
        machine: The machine on which it was noted, if that is another one.
        keys: The keys that it names itself.
        noted: The keys of its note.
    """

    name: str | None
    place: str
    folder: str
    found: bool
    machine: str | None
    keys: frozenset[str]
    noted: frozenset[str] = frozenset()

    @property
    def only_noted(self) -> frozenset[str]:
        """Keys that count because of the note alone."""
        return self.noted - self.keys

    def is_in(self, folder: str) -> bool:
        """Whether its note is of a folder: as `folder` or `place` has it, or relative to the working folder."""
        given = (folder, os.path.abspath(os.path.expanduser(folder)))
        return self.name is not None and (self.place in given or self.folder in given)

    @property
    def said(self) -> str:
        """Words on where it is."""
        if self.found:
            return f"{self.folder}, which does not name them any more"
        if self.machine is not None:
            return f"{self.folder} of another machine ({self.machine})"
        return f"{self.folder}, which cannot be found"


def referrers(store: Store, forgotten: Collection[str] = ()) -> list[Referrer]:
    """Return who refers to a store: by a note in it, or as a study beside it.

    Args:
        store: The store.
        forgotten: Folders whose notes do not count, as in `forget`.

    Raises:
        BadInput: if a study or export is there but cannot be read: pruning would not be safe.
        StoreError: if the store cannot be read.
    """
    found = [_referrer(store, name, note) for name, note in _notes(store)]
    found = [replace(one, noted=frozenset()) if any(one.is_in(it) for it in forgotten) else one for one in found]
    told = {os.path.realpath(one.folder) for one in found if one.found}
    for folder in _studies_beside(store):
        if os.path.realpath(folder) in told:
            continue
        keys = _named(store, "study", folder, guessed=True)
        if keys is not None:
            found.append(Referrer(None, str(folder), str(folder), True, None, keys))
    return found


def referred_keys(store: Store, forgotten: Collection[str] = ()) -> dict[str, set[str]]:
    """Return key → the folders of the studies and exports that refer to it; arguments and errors as of `referrers`."""
    keys: dict[str, set[str]] = {}
    for one in referrers(store, forgotten):
        for key in one.keys | one.noted:
            keys.setdefault(key, set()).add(one.folder)
    return keys


def all_but(store: Store, directory: Path) -> set[str]:
    """Return the keys of all entries but those that one study alone refers to.

    Raises:
        BadInput: if the folder is not a study's that uses this store, or a driver works on it.
        StoreError: if the store cannot be read.
    """
    if not begun(directory):
        raise BadInput(f"--study {directory}: not a study's folder: it has no ledger")
    DriverLock(directory.absolute()).release()  # refused while a driver works on it
    folder = os.path.realpath(directory)
    references = {key: {*map(os.path.realpath, users)} for key, users in referred_keys(store).items()}
    if not any(folder in users for users in references.values()):
        raise BadInput(f"--study {directory}: it does not use the artefact store {store.place}")
    alone = {key for key, users in references.items() if users == {folder}}
    kept = {key for stage in ENTRIES for key, _ in store.keys(stage)} - alone
    lists = [entry for entry in list_entries(store) if entry.members]  # alone refer to what they list
    of_others = {key for entry in lists if entry.key in kept for key in entry.members}
    return kept - ({key for entry in lists if entry.key in alone for key in entry.members} - of_others)


def kept_for_notes(store: Store, forgotten: Collection[str] = ()) -> list[tuple[Referrer, int]]:
    """Return whose notes alone keep entries, and how many: of a folder that is not there, or is another machine's.

    Arguments and errors as of `referrers`.
    """
    known = referrers(store, forgotten)
    named = {key for one in known for key in one.keys}
    there = {key for stage in ENTRIES for key, _ in store.keys(stage)} - named
    counted = [(one, len(there & one.only_noted)) for one in known]
    return sorted(((one, count) for one, count in counted if count), key=lambda pair: pair[0].folder)


def forget(store: Store, folder: str, *, dry_run: bool = False) -> int:
    """Let what is noted for ``folder`` count no more, but what a study or export there names; return how many notes.

    Args:
        store: The store.
        folder: As `Referrer.folder` has it, or as it was noted.
        dry_run: Count alone.
    """
    notes = [one for one in referrers(store) if one.is_in(folder) and (one.only_noted or not one.found)]
    for one in [] if dry_run else notes:
        assert one.name is not None
        if not one.found:
            store.delete(one.name)  # first: keys without a note count for nobody
        for item in store.listing(one.name.removesuffix(".json")):
            store.delete(item.name)
    return len(notes)


def _place(store: Store, folder: Path, root: Path) -> tuple[str, str | None]:
    """Return a folder as a note has it, and this machine's name where it means something there alone."""
    if isinstance(store, FileStore) and folder.is_relative_to(root) and store.root.is_relative_to(root):
        return os.path.relpath(folder, store.root), None
    return str(folder), _machine()


def _referrer(store: Store, name: str, note: dict[str, Any]) -> Referrer:
    place, noted = note["folder"], frozenset(_noted_keys(store, name))
    machine = note.get("machine") if note.get("machine") != _machine() else None
    first = ""
    for folder, guessed in _candidates(store, place):
        first = first or str(folder)
        try:
            keys = _named(store, note["kind"], folder, guessed=guessed)
        except BadInput:
            if machine is None:
                raise
            keys = None
        if keys is not None:
            return Referrer(name, place, str(folder), True, machine, keys, noted)
    return Referrer(name, place, place if os.path.isabs(place) else first, False, machine, frozenset(), noted)


def _candidates(store: Store, place: str) -> Iterator[tuple[Path, bool]]:
    """Yield where a noted folder may lie, and whether that is a guess.

    Notes of earlier versions have nothing but its path before any move: it may be beside the store, as the default is.
    """
    if os.path.isabs(place):
        if isinstance(store, FileStore):
            yield store.root.parent / Path(place).name, True
        yield Path(place), False
    elif isinstance(store, FileStore):
        yield Path(os.path.normpath(store.root / place)), False


def _named(store: Store, kind: str, folder: Path, *, guessed: bool) -> frozenset[str] | None:
    """Return the keys that a study or an export names; None if there is none, or a guessed one uses another store."""
    try:
        return _export_keys(folder) if kind == "export" else _study_keys(folder, store if guessed else None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadInput) as error:
        raise BadInput(
            f"{folder}, which may refer to {store.place}, cannot be read ({error}); nothing more is removed"
        ) from error


def _studies_beside(store: Store) -> list[Path]:
    if not isinstance(store, FileStore):
        return []
    return sorted(path.parent for path in store.root.parent.glob(f"*/{LEDGER}"))


def _notes(store: Store) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for item in store.listing(REFERENCES):
        if item.name.count("/") > 1 or not item.name.endswith(".json"):
            continue
        content = store.read(item.name)
        try:
            note = parse_json(content or b"")
            if not all(isinstance(text, str) for text in (note["folder"], note["kind"], note.get("machine") or "")):
                raise ValueError("its folder, kind or machine is no text")
            found.append((item.name, dict(note)))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{item.name} of {store.place} cannot be read ({error}); nothing more is removed") from error
    return found


def _noted_keys(store: Store, name: str) -> set[str]:
    keys: set[str] = set()
    for item in store.listing(name.removesuffix(".json")):
        try:
            noted = parse_json(store.read(item.name) or b"")
            if not isinstance(noted, list) or not all(isinstance(key, str) for key in noted):
                raise ValueError("it is no list of keys")
            keys.update(noted)
        except (ValueError, TypeError) as error:
            raise BadInput(f"{item.name} of {store.place} cannot be read ({error}); nothing more is removed") from error
    return keys


def _study_keys(folder: Path, only: Store | None) -> frozenset[str] | None:
    keys: set[str] = set()
    place = None
    for event in read_ledger(folder):
        if isinstance(event, StudyStarted | StudyResumed):
            place = recorded_store(event, folder) or place
        elif isinstance(event, TrialStarted | TrialFinished):
            keys.update((event.keys or {}).values())
    other = only is not None and os.path.realpath(place or "") != os.path.realpath(only.place)
    return None if other else frozenset(keys)


def _export_keys(folder: Path) -> frozenset[str]:
    run = parse_yaml(read_bytes(folder / "run.yaml", MAX_BYTES, links=True).decode())
    return frozenset(stage["key"] for stage in run["stages"].values())


def _machine() -> str:
    """Return a name of this machine: containers made of one image share the one half of it or the other."""
    try:
        identifier = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        identifier = ""
    return f"{socket.gethostname()} {identifier}".strip()
