"""Who refers to what in an artefact store, so that pruning never removes what a study or an export still needs.

A study's folder and an export leave a note in the store: ``references/<name>.json`` with the machine and the path
where they lie, and ``references/<name>/*.json`` with the keys that they use. On the machine that it came from, a note
counts for as long as something is there, and what is there says which keys. Of other machines' folders only the noted
keys are known: these count until the note is removed (`forget`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from ddcal.errors import MAKE_WRITABLE, BadInput, StoreError
from ddcal.pipeline.stages import ENTRIES
from ddcal.pipeline.store import Store
from ddcal.pipeline.upkeep import list_entries
from ddcal.study.events import TrialFinished, TrialStarted
from ddcal.study.ledger import begun, read_ledger
from ddcal.study.lock import DriverLock

logger = logging.getLogger(__name__)

REFERENCES = "references"
KEYS_A_FILE = 200
"""A note's keys are written in files of so many, of which only the last is written again."""

Kind = Literal["study", "export"]


class Reference:
    """The note of one study or export in a store."""

    def __init__(self, store: Store, kind: Kind, folder: Path) -> None:
        """Prepare the note of ``folder``; nothing is written yet."""
        self._store = store
        self._note = {"kind": kind, "folder": str(folder), "machine": _machine()}
        digest = hashlib.sha256(f"{_machine()} {folder}".encode()).hexdigest()[:32]
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


def referred_keys(store: Store) -> dict[str, set[str]]:
    """Return key → the folders of the studies and exports that refer to it.

    Raises:
        BadInput: if a study or export is there but cannot be read: pruning would not be safe.
        StoreError: if the store cannot be read.
    """
    keys: dict[str, set[str]] = {}
    for name, note in _notes(store):
        folder = Path(note["folder"])
        elsewhere = note.get("machine") not in (None, _machine())
        found: set[str] = set()
        if elsewhere:
            found |= _noted_keys(store, name)
        try:
            found |= _study_keys(folder) if note["kind"] == "study" else _export_keys(folder)
        except (FileNotFoundError, NotADirectoryError):  # gone, or on another machine
            pass
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            if not elsewhere:
                raise BadInput(
                    f"{name} of {store.place}: {folder}, to which it refers, cannot be read ({error}); "
                    "nothing was removed"
                ) from error
        for key in found:
            keys.setdefault(key, set()).add(str(folder))
    return keys


def all_but(store: Store, directory: Path) -> set[str]:
    """Return the keys of all entries but those that one study alone refers to.

    Raises:
        BadInput: if the folder is not a study's that uses this store, or a driver works on it.
        StoreError: if the store cannot be read.
    """
    folder = directory.absolute()
    if not begun(folder):
        raise BadInput(f"--study {directory}: not a study's folder: it has no ledger")
    DriverLock(folder).release()  # refused while a driver works on it
    references = referred_keys(store)
    if not any(str(folder) in users for users in references.values()):
        raise BadInput(f"--study {directory}: it does not use the artefact store {store.place}")
    alone = {key for key, users in references.items() if users == {str(folder)}}
    kept = {key for stage in ENTRIES for key, _ in store.keys(stage)} - alone
    lists = [entry for entry in list_entries(store) if entry.members]  # alone refer to what they list
    of_others = {key for entry in lists if entry.key in kept for key in entry.members}
    return kept - ({key for entry in lists if entry.key in alone for key in entry.members} - of_others)


def forget(store: Store, folder: str) -> int:
    """Remove the notes on a study or export at ``folder``, on whichever machine that was, and return how many."""
    names = [name for name, note in _notes(store) if note["folder"] == folder]
    for name in names:
        store.delete(name)  # first: keys without a note count for nobody
        for item in store.listing(name.removesuffix(".json")):
            store.delete(item.name)
    return len(names)


def other_machines(store: Store) -> list[str]:
    """Return ``machine: folder`` of every note that another machine left, which only `forget` removes."""
    notes = [note for _, note in _notes(store)]
    return sorted(f"{n['machine']}: {n['folder']}" for n in notes if n.get("machine") not in (None, _machine()))


def _notes(store: Store) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for item in store.listing(REFERENCES):
        if item.name.count("/") > 1 or not item.name.endswith(".json"):
            continue
        content = store.read(item.name)
        try:
            note = json.loads(content or b"")
            found.append((item.name, {**note, "folder": str(note["folder"]), "kind": note["kind"]}))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{item.name} of {store.place} cannot be read ({error}); nothing was removed") from error
    return found


def _noted_keys(store: Store, name: str) -> set[str]:
    keys: set[str] = set()
    for item in store.listing(name.removesuffix(".json")):
        try:
            keys.update(json.loads(store.read(item.name) or b""))
        except (ValueError, TypeError) as error:
            raise BadInput(f"{item.name} of {store.place} cannot be read ({error}); nothing was removed") from error
    return keys


def _study_keys(folder: Path) -> set[str]:
    keys: set[str] = set()
    for event in read_ledger(folder):
        if isinstance(event, TrialStarted | TrialFinished):
            keys.update((event.keys or {}).values())
    return keys


def _export_keys(folder: Path) -> set[str]:
    run = yaml.safe_load((folder / "run.yaml").read_text())
    return {stage["key"] for stage in run["stages"].values()}


def _machine() -> str:
    """Return a name of this machine: containers made of one image share the one half of it or the other."""
    try:
        identifier = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        identifier = ""
    return f"{socket.gethostname()} {identifier}".strip()
