"""A shared store that somebody else can write: nothing outside it is read, written or waited for."""

import hashlib
import io
import json
import logging
import os
import socket
import time
import zipfile
from pathlib import Path

import pytest
import torch
from stores import KINDS, make_place

from ddcal.errors import BadInput, StoreError
from ddcal.pipeline import TrialRunner, open_store
from ddcal.pipeline.upkeep import DAY, list_entries, prune_store, verify_store
from ddcal.store.checkpoint import pack_state, unpack_state
from ddcal.store.leases import FileLeases, FreeLease
from ddcal.study.record.lock import DriverLock
from ddcal.untrusted import Untrusted

KEY = "ab" * 32


@pytest.fixture
def place(request, tmp_path):
    return make_place(request.param, tmp_path / "place", request)


@pytest.fixture
def folder(tmp_path, request):
    """A store in a folder, with one entry."""
    place = make_place("folder", tmp_path / "place", request)
    place.open().publish("train", KEY, write)
    return place


def write(folder):
    (folder / "a.txt").write_text("hello")
    return {"seconds": 1.5, "curve": []}


def signed(manifest):
    """A manifest with the right sum of its own, whatever it says."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return json.dumps(content | {"sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()})


def forge(place, change):
    """Let ``change`` edit the manifest of the entry and sign it again."""

    def edited(content):
        manifest = json.loads(content)
        change(manifest)
        return signed(manifest).encode()

    place.change(f"train/{KEY}/manifest.json", edited)


def everything(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def make_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


NOT_FILES = {
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "stdin": lambda path: path.symlink_to("/dev/stdin"),
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "nowhere": lambda path: path.symlink_to("/nowhere/at/all"),
}
ODD = pytest.mark.parametrize("make", NOT_FILES.values(), ids=NOT_FILES.keys())


LEAD_OUT = ["../../../../victim", "{outside}/victim", "a//../../b", "a\nb", "manifest.json", "\ud800"]


@KINDS
@pytest.mark.parametrize("name", LEAD_OUT, ids=lambda name: ascii(name)[:12])
def test_a_manifest_whose_names_lead_out_is_damaged_and_writes_nothing(place, name, tmp_path, caplog):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    (tmp_path / "victim").write_text("mine")
    place.open(cache="own").publish("train", KEY, write)

    def change(manifest):
        manifest["files"][name.format(outside=outside)] = manifest["files"].pop("a.txt")

    forge(place, change)
    ((_, _, fault),) = verify_store(place.open())
    assert fault is not None and "manifest.json" in fault and fault.isprintable()
    assert place.open(cache="cold").get("train", KEY) is None
    assert "set aside" in caplog.text and list(list_entries(place.open())) == []
    assert (outside / "victim").read_text() == (tmp_path / "victim").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "victim", "place"}
    assert place.open().publish("train", KEY, write).folder.is_dir(), "and it is computed again"


def wrong_fields():
    for value in (None, 1, "x", [], {}, {"a.txt": None}, {"a.txt": {}}, {"a.txt": []}):
        yield ("files", value) if value != {} else ("meta", None)
    for field, values in {
        "bytes": (-1, 2**40, 2**63, 1.5, True, "5", None, [5]),
        "sha256": (None, 7, "x", "A" * 64, "0" * 63, ["0" * 64]),
    }.items():
        yield from ((f"files/a.txt/{field}", value) for value in values)
    yield from (("created", value) for value in (None, "now", [], True, float("nan")))
    yield from (("meta/seconds", value) for value in (None, "x", [], float("inf")))
    yield from (("meta/curve", value) for value in ({}, [1], "x"))
    yield from (("meta/members", value) for value in ({}, [1], "x"))
    yield from (("stage", value) for value in (None, [], "distill"))


@pytest.mark.parametrize(("where", "value"), list(wrong_fields()), ids=lambda value: repr(value)[:16])
def test_fields_of_other_types_are_damage(folder, where, value, caplog):
    def change(manifest):
        *parents, last = where.split("/")
        for parent in parents:
            manifest = manifest[parent]
        manifest[last] = value

    forge(folder, change)
    ((_, _, fault),) = verify_store(folder.open())
    assert fault is not None and "manifest.json" in fault
    assert list(list_entries(folder.open())) == []
    assert folder.open().get("train", KEY) is None and "set aside" in caplog.text


def test_a_file_and_a_folder_of_one_name_are_damage(folder):
    forge(folder, lambda manifest: manifest["files"].update({"a.txt/b": manifest["files"]["a.txt"]}))
    ((_, _, fault),) = verify_store(folder.open())
    assert fault is not None and "a.txt" in fault


@pytest.mark.parametrize(
    "content",
    [b"[" * 10**6, b'{"a":' * 10**5, b"9" * 5000, b"[" + b"0," * 2_000_000 + b"0]", b"\xff\xfe{}", b" " * 17_000_000],
    ids=["deep", "deep mappings", "a huge number", "many values", "utf-16", "large"],
)
def test_a_manifest_that_is_a_bomb_is_damage(folder, content, caplog):
    folder.change(f"train/{KEY}/manifest.json", lambda _: content)
    ((_, _, fault),) = verify_store(folder.open())
    assert fault is not None and folder.open().get("train", KEY) is None and "set aside" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "cached"])
@pytest.mark.parametrize("name", ["a.txt", "manifest.json", ""])
@ODD
def test_what_is_no_file_is_never_opened(kind, name, make, tmp_path, request, caplog):
    place = make_place(kind, tmp_path / "place", request)
    place.open().publish("train", KEY, write)
    folder = Path(place.where) / "train" / KEY
    path = folder / name if name else folder
    folder.rename(tmp_path / "moved") if not name else path.unlink()
    make(path)
    ((_, _, fault),) = verify_store(place.open())
    assert fault is not None
    store = place.open(cache="cold")
    assert store.file("train", KEY, "a.txt") is None or name == "manifest.json"
    assert store.get("train", KEY) is None and "set aside" in caplog.text
    assert (store.publish("train", KEY, write).folder / "a.txt").read_text() == "hello"


@ODD
def test_what_is_no_file_in_the_cache_is_fetched_again(make, tmp_path, request):
    place = make_place("cached", tmp_path / "place", request)
    path = place.open().publish("train", KEY, write).folder / "a.txt"
    assert path.is_relative_to(place.cache)
    path.unlink()
    make(path)
    if path.is_dir() and not path.is_symlink():
        with pytest.raises(StoreError, match=r"storage.cache: .* cannot be written"):
            place.open().get("train", KEY)
    else:
        assert (place.open().get("train", KEY).folder / "a.txt").read_text() == "hello" and not path.is_symlink()


def test_a_file_that_grew_is_not_copied(tmp_path, request):
    place = make_place("cached", tmp_path / "place", request)
    place.open().publish("train", KEY, write)
    with (Path(place.where) / "train" / KEY / "a.txt").open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse
    assert place.open(cache="cold").get("train", KEY) is None


def test_a_link_behind_which_an_entry_goes_on_is_damage(folder, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "b").write_text("hello")
    (Path(folder.where) / "train" / KEY / "deep").symlink_to(tmp_path / "else")
    forge(folder, lambda manifest: manifest["files"].update({"deep/b": manifest["files"]["a.txt"]}))
    ((_, _, fault),) = verify_store(folder.open())
    assert fault == "deep/b lies behind a link (deep)"


@pytest.mark.parametrize("name", ["tmp", "partial", "leases"])
def test_pruning_removes_nothing_behind_a_link(folder, name, tmp_path):
    home = tmp_path / "home"
    (home / "papers").mkdir(parents=True)
    (home / "thesis.tex").write_text("years")
    (Path(folder.where) / name).rename(tmp_path / "before") if (Path(folder.where) / name).exists() else None
    (Path(folder.where) / name).symlink_to(home)
    before = everything(home)
    try:
        prune_store(folder.open(), [], now=time.time() + 30 * DAY)
    except StoreError as error:
        assert "is a link" in str(error)
    assert everything(home) == before


def test_pruning_removes_a_link_and_not_what_it_leads_to(folder, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    (Path(folder.where) / "partial").mkdir()
    link = Path(folder.where) / "partial" / "x"
    link.symlink_to(tmp_path / "home")
    prune_store(folder.open(), [KEY], now=time.time() + 30 * DAY)
    assert not link.is_symlink() and (tmp_path / "home" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("name", ["partial", "references", "tmp", "damaged", "distill"])
def test_nothing_is_written_through_a_link(folder, name, tmp_path):
    (tmp_path / "home").mkdir()
    store = folder.open()
    (Path(folder.where) / name).rename(tmp_path / "before") if (Path(folder.where) / name).exists() else None
    (Path(folder.where) / name).symlink_to(tmp_path / "home")
    deeds = {
        "partial": lambda: store.save_partial(KEY, {"a": 1}),
        "references": lambda: store.write("references/x.json", b"{}"),
        "tmp": lambda: store.publish("distill", KEY, write),
        "damaged": lambda: (folder.change(f"train/{KEY}/a.txt", lambda _: b"x"), folder.open().get("train", KEY)),
        "distill": lambda: store.publish("distill", KEY, write),
    }
    with pytest.raises(StoreError, match="is a link"):
        deeds[name]()
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "partial/../../x", "a\0b"])
def test_names_of_single_files_are_plain(folder, name):
    store = folder.open()
    for deed in (store.read, store.delete, lambda name: store.write(name, b"x")):
        with pytest.raises(StoreError, match="not a plain name"):
            deed(name)


def test_a_file_of_an_entry_is_none_outside_the_store(folder, tmp_path):
    """The key may be of somebody's ledger."""
    outside, store = tmp_path / "outside", folder.open()
    outside.mkdir()
    (outside / "id_rsa").write_text("mine")
    (Path(folder.where) / "train" / ("cd" * 32)).symlink_to(outside)
    for key in (str(outside), "../../../outside", f"{KEY}/../../../../outside", "cd" * 32):
        assert store.file("train", key, "id_rsa") is None, key
    assert store.file("train", KEY, "a.txt").read_text() == "hello"


# Checkpoints


class Bomb:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def swollen():
    return {"work": torch.zeros(1).expand(10**12), "seconds": 0.0}


def test_a_checkpoint_comes_back_as_it_was(folder):
    state = {"work": {"a": torch.arange(3), "b": [torch.zeros(2, 2).t(), None, True, 1.5, "x", (1, 2)]}, "seconds": 2.0}
    folder.open().save_partial(KEY, state)
    back = folder.open().load_partial(KEY)
    assert str(back) == str(state) and unpack_state(pack_state(state)).keys() == state.keys()


@pytest.mark.parametrize(
    "state",
    [
        swollen(),
        {"work": Bomb(bytearray, (10**12,))},
        {"work": Bomb(os.system, ("touch broken-into",))},
        {"work": Bomb(torch.FloatTensor, (10**6, 10**6))},
        [1, 2],
        7,
    ],
    ids=["a view of a terabyte", "bytes", "a command", "a tensor's size", "a list", "a number"],
)
def test_a_checkpoint_with_the_right_sum_that_is_none_is_dropped(folder, state, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.open().write(f"partial/{KEY}.pt", pack_state(state))
    assert folder.open().load_partial(KEY) is None
    assert "is damaged" in caplog.text and "dropped" in caplog.text
    assert not (Path(folder.where) / "partial" / f"{KEY}.pt").exists() and not Path("broken-into").exists()


@pytest.mark.parametrize("content", [b"", b"x", bytes(32), b"PK\x03\x04" * 100], ids=["empty", "x", "zeros", "zip"])
def test_bytes_with_the_right_sum_that_are_no_checkpoint_are_dropped(folder, content, caplog):
    with pytest.raises(Untrusted, match="cannot be read"):
        unpack_state(hashlib.sha256(content).digest() + content)
    folder.open().write(f"partial/{KEY}.pt", hashlib.sha256(content).digest() + content)
    assert folder.open().load_partial(KEY) is None and "dropped" in caplog.text


@pytest.mark.parametrize("levels", [65, 400_000])
def test_a_checkpoint_of_tuples_too_deep_to_hash_is_refused(levels):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}K\x01" + b"\x85" * levels + b"K\x01s.")
    content = stream.getvalue()
    with pytest.raises(Untrusted, match="tuples in each other, more than 64 deep"):
        unpack_state(hashlib.sha256(content).digest() + content)


@ODD
def test_what_is_no_checkpoint_file_is_dropped(folder, make, caplog):
    path = Path(folder.where) / "partial" / f"{KEY}.pt"
    path.parent.mkdir(exist_ok=True)
    make(path)
    assert folder.open().load_partial(KEY) is None
    assert "dropped" in caplog.text and not os.path.lexists(path)


def test_a_checkpoint_of_something_else_is_dropped_and_the_stage_begins_anew(tmp_path, make_trial, caplog):
    def run(place, spoil=False):
        store = open_store(tmp_path / place)
        runner = TrialRunner(make_trial(distill__backbone="real"), store, target="distill")
        if spoil:
            for key in runner.keys.values():
                store.save_partial(key, {"work": {"not": "this"}, "seconds": 1.0})
        with caplog.at_level(logging.WARNING):
            return runner.run()

    assert run("clean") == run("spoiled", spoil=True)
    assert "does not fit" in caplog.text


# Leases and the lock of a driver


@ODD
def test_what_is_no_lease_excludes_nobody(make, tmp_path):
    leases = FileLeases(tmp_path)
    leases.folder.mkdir()
    make(leases.folder / f"{KEY}.json")
    assert isinstance(leases.take(KEY), FreeLease) and not leases.held(KEY)


HOLDERS = [b"\xff", b"[" * 1000, b"[]", b"{}", b"null", b'{"pid": "1/../../x"}', b"9" * 9000]
HOLDERS += [b'{"host": 1, "boot": [], "pid": {}, "started": null}']
HOLDERS += [b'{"host": "a", "boot": "b", "pid": -1, "started": 1}']


@pytest.mark.parametrize("content", HOLDERS, ids=lambda content: repr(content)[:20])
def test_a_lease_and_a_lock_of_nobody(content, tmp_path):
    leases = FileLeases(tmp_path, expiry=0.0)
    leases.folder.mkdir()
    path = leases.folder / f"{KEY}.json"
    path.write_bytes(content)
    os.utime(path, (1.0, 1.0))
    assert not leases.held(KEY)
    lease = leases.take(KEY)
    assert lease is not None
    lease.release()
    (tmp_path / "driver.lock").write_bytes(content)
    with pytest.raises(BadInput, match=r"driver\.lock is not a lock of ddcal"):
        DriverLock(tmp_path)


@pytest.mark.parametrize("name", ["driver.lock", ".driver.lock.guard", ".driver.lock.living"])
@ODD
def test_a_drivers_lock_is_a_file_of_its_own(name, make, tmp_path):
    study, victim = tmp_path / "study", tmp_path / "victim"
    study.mkdir()
    victim.write_text("years")
    make(study / name)
    if make is NOT_FILES["link"]:
        (study / name).unlink()
        (study / name).symlink_to(victim)
    with pytest.raises(BadInput, match=name):
        DriverLock(study)
    assert victim.read_text() == "years"
