"""What goes wrong with a store, the same for a folder, a folder behind a cache, and S3: never a wrong artefact."""

import json
import logging
import subprocess
import sys
import time

import pytest
import torch
from disks import memory_for
from stores import KINDS

from ddcal.errors import StoreError
from ddcal.pipeline.upkeep import DAY, list_entries, prune_store, verify_store
from ddcal.store.base import NotAFile

KEY, OTHER = "ab" * 32, "cd" * 32
META = {"curve": [{"fraction": 0.5, "ece": 0.1 + 0.2}], "seconds": 1.5}
pytestmark = KINDS


def write(folder, text="hello"):
    (folder / "a.txt").write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "b.bin").write_bytes(bytes(range(256)))
    return META


def is_right(entry):
    texts = (entry.folder / "a.txt").read_text(), (entry.folder / "deep" / "b.bin").read_bytes()
    return texts == ("hello", bytes(range(256))) and entry.meta == META and (entry.stage, entry.key) == ("train", KEY)


def flip(position):
    def change(content):
        place = position if position >= 0 else len(content) + position
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return change


def test_an_entry_comes_back_as_it_was(place):
    store = place.open()
    assert store.get("train", KEY) is None and not store.has("train", KEY)
    assert is_right(store.publish("train", KEY, write))
    assert is_right(store.get("train", KEY)) and store.has("train", KEY)
    assert is_right(place.open().get("train", KEY)), "another process"
    assert is_right(place.open(cache="cold").get("train", KEY)), "another machine"
    assert store.get("distill", OTHER) is None
    assert place.names("tmp") == []


def test_the_first_publication_stays(place):
    place.open().publish("train", KEY, write)
    second = place.open(cache="other").publish("train", KEY, lambda folder: write(folder, "other") | {"seconds": 9.0})
    assert is_right(second)
    assert is_right(place.open(cache="third").get("train", KEY))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("a.txt", flip(0), "a.txt does not match its sha256"),
        ("b.bin", flip(-1), "deep/b.bin does not match its sha256"),
        ("b.bin", lambda content: content[:100], "deep/b.bin does not match its sha256"),
        ("b.bin", lambda content: b"", "deep/b.bin does not match its sha256"),
        ("a.txt", lambda content: None, "a.txt is missing"),
        ("manifest.json", lambda content: content.replace(b"1.5", b"1.4"), "manifest.json does not match its own"),
        ("manifest.json", lambda content: content.replace(KEY.encode(), OTHER.encode()), "manifest.json"),
        ("manifest.json", lambda content: content[: len(content) // 2], "manifest.json is unreadable"),
        ("manifest.json", lambda content: b"null", "manifest.json is not in the format"),
    ],
    ids=["bit", "last bit", "truncated", "empty", "missing", "number", "other key", "half a manifest", "null"],
)
def test_damage_is_found_set_aside_and_computed_again(name, change, fault, place, caplog):
    place.open().publish("train", KEY, write)
    place.change(place.name("train", KEY, name), change)
    (found,) = verify_store(place.open())
    assert found[:2] == ("train", KEY) and fault in found[2]
    store = place.open(cache="cold")
    with caplog.at_level(logging.WARNING):
        assert store.get("train", KEY) is None
    (record,) = caplog.records
    assert fault in record.getMessage() and "set aside" in record.getMessage()
    assert len({item.split("/")[1] for item in place.names("damaged")}) == 1
    assert place.open(cache="cold").get("train", KEY) is None and len(caplog.records) == 1
    assert is_right(store.publish("train", KEY, write))
    assert is_right(place.open(cache="third").get("train", KEY))
    assert [fault for _, _, fault in verify_store(place.open())] == [None]


def test_an_entry_copied_to_another_key_is_refused(place):
    store = place.open()
    store.publish("train", KEY, write)
    for name in place.names(f"train/{KEY}"):
        store.write(name.replace(KEY, OTHER), store.read(name))
    assert place.open().get("train", OTHER) is None
    assert is_right(place.open().get("train", KEY))


def test_a_publication_that_was_killed_before_its_manifest_is_no_entry(place):
    place.open().publish("train", KEY, write)
    place.change(f"train/{KEY}/manifest.json", lambda content: None)
    store = place.open(cache="cold")
    assert not store.has("train", KEY)
    assert store.get("train", KEY) is None
    assert is_right(store.publish("train", KEY, write))


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing(error, place):
    store = place.open()

    def fail(folder):
        write(folder)
        raise error

    with pytest.raises(type(error)):
        store.publish("train", KEY, fail)
    assert place.names() == []


def test_a_damaged_or_removed_cache_is_filled_again(place, caplog):
    if place.kind == "folder":
        pytest.skip("this store has no cache")
    entry = place.open().publish("train", KEY, write)
    entry = place.open().get("train", KEY)
    assert str(entry.folder).startswith(str(place.cache))
    (entry.folder / "a.txt").write_text("jello")
    (entry.folder / "deep" / "b.bin").unlink()
    with caplog.at_level(logging.WARNING):
        assert is_right(place.open().get("train", KEY))
    assert "is damaged and fetched again" in caplog.text and "set aside" not in caplog.text
    import shutil

    store = place.open()
    assert is_right(store.get("train", KEY))
    shutil.rmtree(place.cache)
    assert is_right(store.get("train", KEY))


def test_checkpoints(place, caplog):
    store = place.open()
    state = {"x": torch.arange(1000.0), "seconds": 2.5}
    assert store.load_partial(KEY) is None
    store.save_partial(KEY, {"seconds": 1.0})
    store.save_partial(KEY, state)
    assert torch.equal(place.open(cache="other").load_partial(KEY)["x"], state["x"])
    place.change(f"partial/{KEY}.pt", flip(900))
    with caplog.at_level(logging.WARNING):
        assert store.load_partial(KEY) is None
    assert "is damaged" in caplog.text and place.names("partial") == []
    store.save_partial(KEY, state)
    store.publish("train", KEY, write)
    assert place.names("partial") == []


def test_a_checkpoint_is_loaded_where_there_is_far_less_memory_than_it_may_have(place):
    """A stream takes memory for all that it is asked for, whatever there is: 8 GiB for a checkpoint."""
    store, state = place.open(), {"x": torch.arange(1000.0)}
    store.save_partial(KEY, state)
    with memory_for(2 << 30):
        assert torch.equal(place.open(cache="other").load_partial(KEY)["x"], state["x"])


def test_a_file_of_many_parts_comes_whole_and_no_larger_one_does(place, monkeypatch):
    monkeypatch.setattr("ddcal.untrusted.PART", 1000)
    store, content = place.open(), bytes(range(250)) * 10
    store.write("tmp/x", content)
    assert store.read("tmp/x") == store.read("tmp/x", 2500) == content
    for limit in (0, 1, 999, 1000, 2499):
        with pytest.raises(NotAFile, match=f"larger than {limit} bytes"):
            store.read("tmp/x", limit)
    store.write("tmp/x", b"")
    assert store.read("tmp/x") == store.read("tmp/x", 0) == b""


PUBLISH = """
import sys, time
from ddcal.pipeline import open_store
where, cache, name = sys.argv[1:]
store = open_store(where, cache or None)
def write(folder):
    (folder / "a.txt").write_text(name if sys.argv[3] == "different" else "same")
    (folder / "b.bin").write_bytes(bytes(1 << 16))
    return {"curve": [], "seconds": 1.0}
print("ready", flush=True)
sys.stdin.readline()
for index in range(12):
    entry = store.publish("train", f"{index:064x}", write)
    assert len((entry.folder / "a.txt").read_text()) > 0
"""


@pytest.mark.slow
def test_processes_that_publish_the_same_keys_leave_one_whole_entry_each(place):
    """Their bytes differ here, as they may on a GPU: every reader sees one or the other whole."""
    caches = [str(place.cache / name) if place.kind != "folder" else "" for name in ("one", "two", "three")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH.replace('name if sys.argv[3] == "different" else "same"', "name"),
             str(place.where), cache, f"writer {number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number, cache in enumerate(caches)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=600)
        assert process.returncode == 0
    assert [fault for _, _, fault in verify_store(place.open())] == [None] * 12
    for cache in ("cold", "one"):
        store = place.open(cache=cache)
        texts = {(store.get("train", f"{i:064x}").folder / "a.txt").read_text() for i in range(12)}
        assert texts <= {f"writer {number}" for number in range(3)}
    assert place.names("damaged") == [] and place.names("tmp") == []


def test_prune_keeps_what_is_referred_to_written_or_checkpointed(place):
    store = place.open()
    for key in (KEY, OTHER):
        store.publish("train", key, write)
        store.save_partial(key, {})
    half = f"calibrate/{KEY}/0123/x.bin" if place.kind == "s3" else "tmp/upload/x.bin"
    store.write(half, b"x")
    scratch = store.cache.scratch() if place.kind == "s3" else None
    removed = prune_store(store, {KEY})
    assert [entry.key for entry in removed] == [OTHER]
    assert [entry.key for entry in list_entries(place.open())] == [KEY]
    assert half in place.names() and len(place.names("partial")) == 2, "they are young"
    assert scratch is None or scratch.exists()
    prune_store(place.open(), {KEY}, now=2 * DAY + time.time())
    assert scratch is None or not scratch.exists()
    assert half not in place.names() and place.names("partial") == [f"partial/{KEY}.pt"]
    assert is_right(place.open(cache="cold").get("train", KEY))
    assert place.open().get("train", OTHER) is None


def test_the_listing_tells_size_and_age(place):
    store = place.open()
    store.publish("train", KEY, write)
    (entry,) = list_entries(store)
    assert (entry.stage, entry.key, entry.seconds) == ("train", KEY, 1.5) and 261 + 300 < entry.bytes < 2000
    assert json.loads(store.read(f"train/{KEY}/manifest.json"))["created"] == entry.created


@pytest.mark.slow
def test_a_store_that_is_lost_is_an_error_not_a_miss(place, request):
    if place.kind != "s3":
        pytest.skip("a folder that is gone is an empty store")
    place.open().publish("train", KEY, write)
    place.where = place.where.replace("127.0.0.1:", "127.0.0.1:1&x=").split("&x=")[0] + "&scheme=http"
    for ask in (lambda s: s.get("train", KEY), lambda s: s.has("train", KEY), lambda s: s.check()):
        with pytest.raises(StoreError, match="cannot be read: it cannot be reached"):
            ask(place.open())
    with pytest.raises(StoreError, match="cannot be written: it cannot be reached"):
        place.open().check_writable()
