"""Looking after an artefact store: what is in it, whether it is whole, and making room."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ddcal.pipeline.stages import ENTRIES
from ddcal.store.base import Store
from ddcal.store.leases import open_leases
from ddcal.store.manifest import read_manifest

DAY = 86400.0
LEFTOVER_SECONDS = DAY
"""Temporary folders and checkpoints older than this belong to nobody: a worker renews its own every 30 seconds.

A worker that trains experts publishes one at least as often as this.
"""

REREAD_SECONDS = 10.0
"""While entries are removed, who refers to what is looked at again after so long."""


@dataclass(frozen=True)
class Listed:
    """An entry of a store.

    Attributes:
        stage: Its stage.
        key: Its key.
        bytes: Its size on disk.
        created: When it was published, in seconds since 1970.
        seconds: How long it took to compute.
        what: A few words on what it is.
        config: The trial that it was computed for; None where a stage records none.
        members: Keys of entries that this one is made of and that nothing else names: the single experts of a trial's
            experts, and the logits of masked images of a calibration.
        part: Whether it is such a member, which a list may name later.
    """

    stage: str
    key: str
    bytes: int
    created: float
    seconds: float
    what: str
    config: dict[str, Any] | None = None
    members: tuple[str, ...] = ()
    part: bool = False


def list_entries(store: Store) -> Iterator[Listed]:
    """Yield the entries by stage, oldest first; unreadable ones are left out (`verify_store` names them)."""
    for stage in ENTRIES:
        found = []
        for key, content in store.keys(stage):
            try:
                manifest = read_manifest(content, stage, key)
                meta = manifest["meta"]
                size = sum(record["bytes"] for record in manifest["files"].values()) + len(content or b"")
                facts = (meta["seconds"], _what(meta), meta.get("config"), tuple(meta.get("members", ())))
                part = "expert" in meta or "masked_ratio" in meta
                entry = Listed(stage, key, size, manifest["created"], *facts, part)
            except (ValueError, KeyError, TypeError):
                continue
            found.append(entry)
        yield from sorted(found, key=lambda entry: entry.created)


def verify_store(store: Store) -> Iterator[tuple[str, str, str | None]]:
    """Yield (stage, key, fault) for every entry after reading all of its files; fault is None where it is whole."""
    for stage in ENTRIES:
        for key, content in store.keys(stage):
            yield stage, key, store.fault(stage, key, content)


def prune_store(
    store: Store,
    kept: Collection[str] | Callable[[], Collection[str]],
    *,
    older_than: float = 0.0,
    max_bytes: int | None = None,
    now: float | None = None,
    dry_run: bool = False,
) -> list[Listed]:
    """Remove entries that nothing refers to, oldest first, and leftovers of killed workers.

    What is being written is not an entry yet and stays, as do checkpoints that a key in ``kept`` or a lease protects.
    Studies may run meanwhile: they note the keys of a trial before it begins, and ``kept`` is asked for them after the
    entries were listed, and now and then while they are removed. Experts and logits that no list names yet may be those
    of an unfinished stage: all of them stay while any of them is younger than `LEFTOVER_SECONDS`.

    Args:
        store: The store.
        kept: Keys that studies and exports refer to, or what returns them; these are never removed.
        older_than: Remove only entries older than so many days.
        max_bytes: Remove only as much as is needed to come below this size; None removes all that may go.
        now: The present time in seconds since 1970; default: the clock.
        dry_run: Remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        StoreError: if an entry cannot be removed.
    """
    now = time.time() if now is None else now
    entries = list(list_entries(store))
    listed = {key for entry in entries for key in entry.members}
    loose = [entry for entry in entries if entry.part and entry.key not in listed]
    grows = any(now - entry.created < LEFTOVER_SECONDS for entry in loose)
    unfinished = {entry.key for entry in loose} if grows else set()

    def referred() -> set[str]:
        keys = kept() if callable(kept) else kept
        return {*keys, *unfinished, *(key for entry in entries if entry.key in keys for key in entry.members)}

    spared, read = referred(), time.monotonic()
    size = sum(entry.bytes for entry in entries)
    removed = []
    for entry in sorted(entries, key=lambda entry: entry.created):
        if max_bytes is not None and size <= max_bytes:
            break
        if time.monotonic() - read >= REREAD_SECONDS:
            spared, read = referred(), time.monotonic()
        if entry.key in spared or now - entry.created < older_than * DAY:
            continue
        if not dry_run:
            store.remove(entry.stage, entry.key)
        removed.append(entry)
        size -= entry.bytes
    if not dry_run:
        leases = open_leases(store)
        store.sweep(now - LEFTOVER_SECONDS, lambda key: key in spared or leases.held(key), ENTRIES)
    return removed


def _what(meta: dict[str, Any]) -> str:
    config = meta.get("config")
    if not isinstance(config, dict):
        return ""
    distill = config["distill"]
    if "masked_ratio" in meta:
        name, masked = f"{config['data']['name']} {distill['backbone']} ipc {distill['ipc']}", meta["masked_ratio"]
        return f"{name} logits at mask ratio {masked:g} seed {config['seed']}"
    if "members" in meta or "expert" in meta:
        which = f"expert {meta['expert']}" if "expert" in meta else f"list of {len(meta['members'])} experts"
        return f"{config['data']['name']} {which} seed {config['seed']}"
    mask = f" mask {distill['mask']['ratio']:g}" if distill["mask"]["ratio"] else ""
    return f"{config['data']['name']} {distill['backbone']} ipc {distill['ipc']}{mask} seed {config['seed']}"
