import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from ddcal.errors import StoreError
from ddcal.pipeline import open_store

KEY = "ab" * 32
FILES = ("a.txt", "deep/b.bin", "manifest.json")
META = {"curve": [{"fraction": 0.5, "ece": 0.1 + 0.2}], "seconds": 1.5}


def write(folder, text="hello"):
    (folder / "a.txt").write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "b.bin").write_bytes(bytes(range(256)))
    return META


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def folder(store):
    """A published entry's folder."""
    return store.publish("train", KEY, write).folder


@pytest.fixture
def set_aside(store, caplog):
    """Assert that the entry is refused by a store that has not verified it yet: a warning, set aside, None."""

    def check(fault):
        with caplog.at_level(logging.WARNING):
            assert open_store(store.root).get("train", KEY) is None
        (record,) = caplog.records
        assert fault in record.getMessage() and "set aside" in record.getMessage()
        assert not (store.root / "train" / KEY).exists()
        assert len(list((store.root / "damaged").iterdir())) == 1
        assert open_store(store.root).get("train", KEY) is None  # and there is nothing to complain about any more
        assert len(caplog.records) == 1
        assert open_store(store.root).publish("train", KEY, write).meta == META

    return check


def test_publish_and_get_round_trip(store):
    assert store.get("train", KEY) is None
    published = store.publish("train", KEY, write)
    for entry in (published, store.get("train", KEY), open_store(store.root).get("train", KEY)):
        assert (entry.stage, entry.key, entry.meta) == ("train", KEY, META)
        assert entry.files == {
            "a.txt": hashlib.sha256(b"hello").hexdigest(),
            "deep/b.bin": hashlib.sha256(bytes(range(256))).hexdigest(),
        }
        assert (entry.folder / "a.txt").read_text() == "hello"
    assert store.get("distill", "cd" * 32) is None
    assert list((store.root / "tmp").iterdir()) == []


def test_the_first_publication_stays(store):
    store.publish("train", KEY, write)
    second = open_store(store.root).publish("train", KEY, lambda folder: write(folder, "other") | {"seconds": 9.0})
    assert second.meta == META
    assert (second.folder / "a.txt").read_text() == "hello"
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_bit_sets_the_entry_aside(name, position, folder, set_aside):
    content = bytearray((folder / name).read_bytes())
    content[position] ^= 1
    (folder / name).write_bytes(content)
    set_aside(f"{name} does not match its sha256")


def test_a_flipped_bit_in_the_manifests_numbers_sets_the_entry_aside(folder, set_aside):
    """The metrics of a trial lie in the manifest itself."""
    text = (folder / "manifest.json").read_text()
    assert text.count('"seconds": 1.5') == 1  # the time of writing may hold 1.5 too
    (folder / "manifest.json").write_text(text.replace('"seconds": 1.5', '"seconds": 1.4'))
    set_aside("manifest.json does not match")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_sets_the_entry_aside(name, folder, set_aside):
    (folder / name).unlink()
    set_aside(f"{name.rpartition('/')[2]} is missing")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\x00", b'{"files": [], "sha256": 1}'])
def test_a_manifest_out_of_format_sets_the_entry_aside(content, folder, set_aside):
    (folder / "manifest.json").write_bytes(content)
    set_aside("manifest.json")


def test_a_half_written_entry_sets_itself_aside(store, set_aside):
    write_into = store.root / "train" / KEY
    write_into.mkdir(parents=True)
    write(write_into)
    set_aside("manifest.json is missing")


def test_publishing_over_a_damaged_entry_replaces_it(store, folder, caplog):
    (folder / "a.txt").write_text("jello")
    with caplog.at_level(logging.WARNING):
        entry = open_store(store.root).publish("train", KEY, write)
    assert (entry.folder / "a.txt").read_text() == "hello"
    assert "set aside" in caplog.text


def test_an_entry_is_verified_once_a_process(store, folder):
    assert store.get("train", KEY) is not None
    (folder / "a.txt").write_text("jello")
    assert store.get("train", KEY) is not None
    assert open_store(store.root).get("train", KEY) is None  # another process looks


def test_an_entry_that_was_removed_is_gone_at_once(store, folder):
    shutil.rmtree(folder)
    assert store.get("train", KEY) is None


def test_an_entry_that_another_process_removed_meanwhile_is_removed(store, folder):
    store.remove("train", KEY)
    store.remove("train", KEY)
    assert store.get("train", KEY) is None


@pytest.mark.parametrize("left", [True, False], ids=["a file", "the folder"])
def test_what_is_gone_from_a_cache_is_copied_again(left, tmp_path):
    store = open_store(tmp_path / "store", tmp_path / "cache")
    store.publish("train", KEY, write)
    entry = store.get("train", KEY)
    assert entry.whole and entry.folder.is_relative_to(tmp_path / "cache")
    (entry.folder / "a.txt").unlink() if left else shutil.rmtree(tmp_path / "cache")
    assert not entry.whole
    again = store.get("train", KEY)
    assert again.whole and (again.folder / "a.txt").read_text() == "hello"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing(error, store):
    def fail(folder):
        write(folder)
        raise error

    with pytest.raises(type(error)):
        store.publish("train", KEY, fail)
    assert list((store.root / "tmp").iterdir()) == []
    assert store.get("train", KEY) is None


def test_a_root_below_a_regular_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match=f"{root} cannot be created"):
            open_store(root)


def test_a_store_that_turned_into_a_file_is_named(store):
    shutil.rmtree(store.root)
    store.root.write_text("")
    with pytest.raises(StoreError, match=r"cannot be written: Not a directory"):
        store.publish("train", KEY, write)
    with pytest.raises(StoreError, match=r"checkpoint .* cannot be written"):
        store.save_partial(KEY, {})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; needs mount rights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=True, capture_output=True, timeout=300
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no right to mount: {error}")
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=300)


def test_a_full_disk_is_told_and_leaves_nothing(small_disk):
    store = open_store(small_disk / "store")
    store.publish("train", KEY, write)

    def write_tensors(folder):
        save_file({"x": torch.zeros(1 << 20)}, folder / "x.safetensors")
        return META

    def write_bytes(folder):
        (folder / "x").write_bytes(bytes(1 << 22))
        return META

    for writer in (write_tensors, write_bytes):
        with pytest.raises(StoreError, match=r"cannot be written: .*No space left on device"):
            store.publish("train", "cd" * 32, writer)
    with pytest.raises(StoreError, match=r"checkpoint .*No space left on device"):
        store.save_partial(KEY, {"x": torch.zeros(1 << 20)})
    assert [*(store.root / "tmp").iterdir(), *(store.root / "partial").iterdir()] == []
    assert open_store(store.root).get("train", KEY).meta == META
    assert store.publish("train", "ef" * 32, write).meta == META  # there is room for a small one again


def publish_many(root, barrier, name):
    store = open_store(root)
    barrier.wait()
    for index in range(40):
        store.publish("train", f"{index:064x}", lambda folder: write(folder, name))


def test_two_processes_that_publish_the_same_keys_give_one_valid_entry_each(store, caplog):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=publish_many, args=(store.root, barrier, name)) for name in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    entries = [store.get("train", f"{index:064x}") for index in range(40)]
    assert all((entry.folder / "a.txt").read_text() in ("one", "two") for entry in entries)
    assert sorted(os.listdir(store.root)) == ["tmp", "train"]
    assert list((store.root / "tmp").iterdir()) == []
    assert caplog.records == []


STATE = {"work": {"x": torch.arange(1000.0), "curve": [{"loss": 0.1}], "none": None}, "seconds": 2.5}


def test_a_checkpoint_round_trip(store):
    assert store.load_partial(KEY) is None
    store.save_partial(KEY, {"seconds": 1.0})
    store.save_partial(KEY, STATE)
    loaded = store.load_partial(KEY)
    assert torch.equal(loaded["work"].pop("x"), STATE["work"]["x"])
    assert loaded == {"work": {"curve": [{"loss": 0.1}], "none": None}, "seconds": 2.5}
    assert len(list((store.root / "partial").iterdir())) == 1


def test_publishing_removes_the_checkpoint(store):
    store.save_partial(KEY, STATE)
    store.publish("train", KEY, write)
    assert store.load_partial(KEY) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"not a checkpoint",
        lambda content: content[:900] + bytes([content[900] ^ 4]) + content[901:],
        lambda content: content[:-700] + bytes([content[-700] ^ 4]) + content[-699:],
    ],
    ids=["half", "empty", "text", "bit", "late bit"],
)
def test_a_damaged_checkpoint_is_dropped_with_a_warning(damage, store, caplog):
    store.save_partial(KEY, STATE)
    path = store.root / "partial" / f"{KEY}.pt"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert store.load_partial(KEY) is None
    assert f"partial/{path.name} of {store.place} is damaged" in caplog.text
    assert not path.exists()


def test_versions_of_a_manifest_are_text(store):
    entry = store.publish("train", KEY, lambda folder: write(folder) | {"versions": {"torch": "2.0"}})
    assert entry.meta["versions"] == {"torch": "2.0"}
    with pytest.raises(StoreError, match="lost entry"):
        store.publish("train", "cd" * 32, lambda folder: write(folder) | {"versions": {"torch": 2}})


def test_a_manifest_is_readable_by_people(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["stage"], manifest["key"], manifest["meta"]) == ("train", KEY, META)
    assert manifest["files"]["a.txt"] == {"sha256": hashlib.sha256(b"hello").hexdigest(), "bytes": 5}
