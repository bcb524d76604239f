"""Fuzzers of the formats that others may write: clear errors, no traceback, no hang, little memory, nothing outside."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from fuzzing import Bounds, contents, either, fuzzed, structures
from hypothesis import given
from hypothesis import strategies as st

from ddcal.calibration import load_calibrator
from ddcal.calibration.temperature_scaling import TemperatureScaling
from ddcal.config.reading.yaml_reader import dump_yaml, parse_yaml
from ddcal.distill import SyntheticSet
from ddcal.errors import BadInput, StoreError
from ddcal.pipeline import open_store
from ddcal.pipeline.upkeep import list_entries, verify_store
from ddcal.store.checkpoint import pack_state, unpack_state
from ddcal.store.lock_holder import Holder
from ddcal.study import run_study
from ddcal.study.export.export import export_trial
from ddcal.study.export.layout import read_run
from ddcal.study.export.replay import _config, _located, check_replayable
from ddcal.study.record.results import load_study
from ddcal.untrusted import Untrusted

KEY = "ab" * 32
EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(400, marks=pytest.mark.slow)])


def outside(folder, inside):
    """What lies in a folder but for one folder of it."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_relative_to(inside)}


def told(error):
    """An error is a few printable lines."""
    text = str(error)
    assert text and text.replace("\n", "").isprintable() and len(text) < 60_000, ascii(text[:300])


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_study):
    """A small export and what it says; its two files are written over by the tests."""
    home = tmp_path_factory.mktemp("export")
    results = run_study(tiny_study(search={"trials": 1}), output=home / "runs", debug=True)
    folder = export_trial(load_study(results.directory), results.best, home / "best")
    return folder, json.loads((folder / "run.lock.json").read_text())


def looked_at(folder):
    """All that a replay does before it computes."""
    run = read_run(folder)
    config = _config(run)
    data, fingerprint = _located(config.data, run["data_fingerprint"], folder, None)
    check_replayable(run, data, fingerprint)


@pytest.mark.slow
@EXAMPLES
@pytest.mark.parametrize("name", ["run.yaml", "run.lock.json", "both"])
def test_what_an_export_says(exported, name, examples, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    original, run = exported
    folder = shutil.copytree(original, tmp_path / "inside" / "best")
    lines, bounds, whole = (folder / "run.yaml").read_bytes(), Bounds(), []
    texts = {
        "run.yaml": st.one_of(contents(lines), structures(run).map(lambda value: dump_yaml(value).encode())),
        "run.lock.json": either(run),
        "both": structures(run),
    }

    @fuzzed(examples)
    @given(texts[name])
    def holds(value):
        for file in ("run.yaml", "run.lock.json"):
            (folder / file).write_bytes((original / file).read_bytes())
        if name == "both":
            (folder / "run.lock.json").write_text(json.dumps(value))
            (folder / "run.yaml").write_bytes(dump_yaml(value).encode())
        else:
            (folder / name).write_bytes(value)
        with bounds:
            try:
                looked_at(folder)
                whole.append(1)
            except BadInput as error:
                told(error)

    before = outside(tmp_path, folder)
    holds()
    assert {path for path in outside(tmp_path, folder) if not path.is_relative_to(tmp_path / "cache")} == set(before)
    assert bounds.count >= examples // 2 and len(whole) < bounds.count / 2


@EXAMPLES
def test_yaml(exported, examples):
    bounds = Bounds()
    lines = (exported[0] / "run.yaml").read_bytes()

    @fuzzed(examples)
    @given(contents(lines))
    def holds(content):
        with bounds:
            try:
                parse_yaml(content.decode(errors="replace"))
            except Untrusted as error:
                told(error)

    holds()
    assert bounds.count >= examples // 2


def write_entry(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "b.bin").write_bytes(bytes(range(256)))
    (folder / "a.txt").write_text("hello")
    return {"seconds": 1.5, "curve": [{"fraction": 0.5, "ece": 0.1}], "members": ["x"], "config": None, "facts": {}}


def signed(value):
    if not isinstance(value, dict):
        return json.dumps(value).encode()
    content = {name: item for name, item in value.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": digest}).encode()


@EXAMPLES
@pytest.mark.parametrize("kind", ["folder", "cached"])
def test_manifests(kind, examples, tmp_path):
    root, bounds, whole = tmp_path / "inside" / "store", Bounds(), []
    victim = tmp_path / "victim"
    victim.write_text("years")

    def opened():
        return open_store(root, tmp_path / "inside" / "cache" if kind == "cached" else None)

    good = opened().publish("train", KEY, write_entry).folder
    path = root / "train" / KEY / "manifest.json"
    text, manifest = path.read_bytes(), json.loads(path.read_text())
    files = {name: (good / name).read_bytes() for name in manifest["files"]}

    @fuzzed(examples)
    @given(st.one_of(either(manifest), structures(manifest).map(signed), structures(manifest).map(signed)))
    def holds(content):
        shutil.rmtree(root / "train", ignore_errors=True)
        for name, data in files.items():
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / name).write_bytes(data)
        path.write_bytes(content)
        with bounds:
            faults = [fault for _, _, fault in verify_store(opened())]
            assert all(fault is None or len(fault) < 2000 for fault in faults)
            list(list_entries(opened()))
            entry = opened().get("train", KEY)
            assert (entry is None) == (faults[0] is not None)
            if entry is not None:
                whole.append(1)
                for name in entry.files:
                    assert (entry.folder / name).read_bytes() == files[name]

    before = outside(tmp_path, tmp_path / "inside")
    holds()
    assert outside(tmp_path, tmp_path / "inside") == before and victim.read_text() == "years"
    assert bounds.count >= examples // 2 and len(whole) < bounds.count
    shutil.rmtree(root / "train", ignore_errors=True)
    path.parent.mkdir(parents=True)
    for name, data in {**files, "manifest.json": text}.items():
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(data)
    assert opened().get("train", KEY) is not None, "the good one is still good"


@EXAMPLES
def test_checkpoints(examples, tmp_path):
    state = {"work": {"images": torch.arange(12.0).view(3, 4), "curve": [{"a": 1.0}], "iteration": torch.tensor(3)}}
    content = pack_state(state | {"seconds": 1.5})[32:]
    store, bounds, back = open_store(tmp_path / "inside"), Bounds(megabytes=800), []

    @fuzzed(examples)
    @given(contents(content), st.booleans())
    def holds(changed, right_sum):
        digest = hashlib.sha256(changed).digest() if right_sum else bytes(32)
        with bounds:
            try:
                back.append(unpack_state(digest + changed))
            except Untrusted as error:
                told(error)
            store.write(f"partial/{KEY}.pt", digest + changed)
            loaded = store.load_partial(KEY)
            assert loaded is not None or not (tmp_path / "inside" / "partial" / f"{KEY}.pt").exists()

    holds()
    assert bounds.count >= examples // 2 and all(isinstance(one, dict) for one in back)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


@EXAMPLES
@pytest.mark.parametrize("kind", ["synthetic.json", "calibrator.json"])
def test_descriptions_beside_tensors(kind, examples, tmp_path):
    if kind == "synthetic.json":
        images, labels = torch.zeros(4, 1, 2, 2), torch.tensor([0, 0, 1, 1])
        SyntheticSet(images, labels, 2, 0.1, {"backbone": "dc", "class_names": ["a", "b"]}).save(tmp_path)
        load = SyntheticSet.load
    else:
        logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).numpy()
        TemperatureScaling().fit(logits, logits.argmax(1)).save(tmp_path)
        load = load_calibrator
    base, bounds = json.loads((tmp_path / kind).read_text()), Bounds()
    load(tmp_path)

    @fuzzed(examples)
    @given(either(base))
    def holds(content):
        (tmp_path / kind).write_bytes(content)
        with bounds:
            try:
                load(tmp_path)
            except ValueError as error:
                assert len(str(error)) < 20_000

    holds()
    assert bounds.count >= examples // 2


@EXAMPLES
def test_holders(examples):
    bounds = Bounds()
    base = {"host": "a", "boot": "b", "pid": os.getpid(), "started": 1, "namespace": "", "token": "x"}

    @fuzzed(examples)
    @given(either(base))
    def holds(content):
        with bounds:
            try:
                assert isinstance(Holder.parse(content).dead, bool)
            except ValueError as error:
                told(error)

    holds()
    assert bounds.count >= examples // 2


@EXAMPLES
def test_notes_on_who_refers_to_what(examples, tmp_path):
    from ddcal.study.record.references import Reference, kept_for_notes, referred_keys

    store, bounds = open_store(tmp_path / "store"), Bounds()
    Reference(store, "export", tmp_path / "gone", tmp_path, "x-0001").write()
    (item,) = store.listing("references")
    base = json.loads(store.read(item.name))

    @fuzzed(examples)
    @given(either(base))
    def holds(content):
        store.write(item.name, content)
        with bounds:
            for ask in (referred_keys, kept_for_notes):
                try:
                    ask(store)
                except (BadInput, StoreError) as error:
                    assert len(str(error)) < 20_000

    holds()
    assert bounds.count >= examples // 2
