"""Listing, verifying and pruning a store of entries made here."""

import pytest

from ddcal.pipeline.upkeep import DAY, list_entries, prune_store, verify_store
from ddcal.store.opening import open_store

NOW = 1_000_000_000.0


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Three distill entries a, b, c of 1000 bytes each, published 3, 2 and 1 days before NOW."""
    store = open_store(tmp_path)
    for days, key in ((3, "a"), (2, "b"), (1, "c")):
        monkeypatch.setattr("ddcal.store.manifest.time.time", lambda days=days: NOW - days * DAY)

        def write(folder):
            (folder / "data").write_bytes(bytes(1000))
            return {"seconds": 2.0, "curve": []}

        store.publish("distill", key, write)
    return store


def test_entries_are_listed_oldest_first_with_their_size(store):
    entries = list(list_entries(store))
    assert [entry.key for entry in entries] == ["a", "b", "c"]
    assert all(1000 < entry.bytes < 2000 and entry.seconds == 2.0 for entry in entries)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "data").write_bytes(b"\1" + bytes(999)), "data does not match its sha256"),
        (lambda folder: (folder / "data").unlink(), "data is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is unreadable"),
        (lambda folder: None, None),
    ],
)
def test_verify_names_the_damage(store, damage, fault):
    damage(store.root / "distill" / "b")
    found = {key: fault for _, key, fault in verify_store(store)}
    assert found["a"] is None and found["c"] is None
    assert found["b"] == fault if fault is None else fault in found["b"]


@pytest.mark.parametrize(
    ("settings", "removed"),
    [
        ({}, ["a", "b", "c"]),
        ({"kept": {"b"}}, ["a", "c"]),
        ({"older_than": 1.5}, ["a", "b"]),
        ({"older_than": 9}, []),
        ({"max_bytes": 3000}, ["a"]),
        ({"max_bytes": 3000, "kept": {"a"}}, ["b"]),
        ({"max_bytes": 10**9}, []),
        ({"max_bytes": 0, "kept": {"a", "b", "c"}}, []),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_removes_the_oldest_that_nobody_needs(store, settings, removed, dry_run):
    found = prune_store(store, **{"kept": set(), **settings}, now=NOW, dry_run=dry_run)
    assert [entry.key for entry in found] == removed
    left = {entry.key for entry in list_entries(store)}
    assert left == {"a", "b", "c"} - (set() if dry_run else set(removed))
    assert all(fault is None for _, _, fault in verify_store(store))


def test_what_others_publish_or_take_while_a_store_is_pruned_stays(store, monkeypatch):
    """A study that runs publishes what it needs, and takes what nobody needed before."""
    monkeypatch.setattr("ddcal.pipeline.upkeep.REREAD_SECONDS", 0.0)
    asked = []

    def kept():
        asked.append(1)
        if len(asked) == 1:
            store.publish("distill", "d", lambda folder: {"seconds": 2.0, "curve": []})
        return set() if len(asked) <= 2 else {"b"}

    assert [entry.key for entry in prune_store(store, kept, now=NOW)] == ["a", "c"]
    assert {entry.key for entry in list_entries(store)} == {"b", "d"}
