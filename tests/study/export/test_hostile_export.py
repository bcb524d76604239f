"""Exports that somebody else made: nothing in them decides how they are judged, hangs, swells or leads elsewhere."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config.reading.yaml_reader import MAX_NODES, dump_yaml, parse_yaml
from ddcal.study import run_study
from ddcal.study.export.layout import ExportError, read_run
from ddcal.study.export.replay import Comparison, replay
from ddcal.untrusted import Untrusted

FILES = ("run.yaml", "run.lock.json")


def ddcal(*arguments, env=None):
    result = CliRunner(env=env).invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def write_data(path, shift=0):
    random = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 90), ("test", 30)):
        parts[f"x_{part}"] = random.integers(0, 200, (count, 8, 8, 1), dtype=np.uint8) + np.uint8(shift)
        parts[f"y_{part}"] = np.arange(count) % 3
    np.savez(path, **parts)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_study):
    """An export of a trial on data of one's own, which lies beside it no longer."""
    home = tmp_path_factory.mktemp("alice")
    write_data(home / "my.npz")
    base = {"data.name": "npz", "data.root": str(home / "my.npz")}
    study = run_study(tiny_study(base=base, search={"trials": 1}), output=home / "runs", debug=True).directory
    assert ddcal("export", study, "--to", home / "best").exit_code == 0
    (home / "my.npz").unlink()
    return home / "best"


@pytest.fixture
def copy(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DDCAL_DATA", raising=False)
    (tmp_path / "bob").mkdir()
    write_data(tmp_path / "bob" / "my.npz")
    return shutil.copytree(exported, tmp_path / "best")


def edit(folder, change):
    """Change both files, as somebody does who wants to be believed."""
    run = json.loads((folder / "run.lock.json").read_text())
    change(run)
    (folder / "run.lock.json").write_text(json.dumps(run))
    (folder / "run.yaml").write_text(dump_yaml(run))


# Where the data lies


def test_data_that_lies_nowhere_names_both_ways(copy):
    result = ddcal("replay", copy)
    assert result.exit_code == 2
    assert f"ddcal replay {copy} --data-root PLACE" in result.output and "$DDCAL_DATA" in result.output


@pytest.mark.parametrize("way", ["the file", "its folder", "the environment"])
def test_the_same_bytes_elsewhere_replay(copy, tmp_path, way):
    bob, before = tmp_path / "bob", {path.name for path in copy.iterdir()}
    arguments = {"the file": ("--data-root", bob / "my.npz"), "its folder": ("--data-root", bob)}.get(way, ())
    result = ddcal("replay", copy, *arguments, env={"DDCAL_DATA": str(bob)} if not arguments else None)
    assert result.exit_code == 0, result.output
    assert "DIFFERS" not in result.output
    assert [path.name for path in bob.iterdir()] == ["my.npz"], "nothing is kept beside data that an export names"
    assert {path.name for path in copy.iterdir()} == before and (tmp_path / "cache" / "ddcal" / "data").is_dir()


def test_the_fingerprint_decides_which_place_is_taken(copy, tmp_path, monkeypatch):
    recorded = Path(read_run(copy)["config"]["data"]["root"])
    write_data(recorded, shift=1)
    try:
        result = ddcal("replay", copy)
        assert result.exit_code == 2 and "data_fingerprint" in result.output
        assert ddcal("replay", copy, env={"DDCAL_DATA": str(tmp_path / "bob")}).exit_code == 0
        write_data(tmp_path / "bob" / "my.npz", shift=2)
        assert ddcal("replay", copy, "--data-root", tmp_path / "bob").exit_code == 2
    finally:
        recorded.unlink()


def test_hashes_that_come_with_the_data_are_not_believed(copy, tmp_path):
    """A folder of data may hold ``.ddcal/fingerprints.json``, which says what the export says."""
    from ddcal.config import DataConfig
    from ddcal.data import dataset_fingerprint

    path = tmp_path / "bob" / "my.npz"
    dataset_fingerprint(DataConfig(name="npz", root=str(path)))
    known = json.loads((path.parent / ".ddcal" / "fingerprints.json").read_text())
    write_data(path, shift=1)
    known["my.npz"] |= {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
    (path.parent / ".ddcal" / "fingerprints.json").write_text(json.dumps(known))
    result = ddcal("replay", copy, "--data-root", path)
    assert result.exit_code == 2 and "data_fingerprint" in result.output


def test_an_edited_place_is_told_how_it_is_said(copy):
    text = (copy / "run.yaml").read_text()
    (copy / "run.yaml").write_text(text.replace("my.npz", "other.npz"))
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and "config.data.root" in result.output and "--data-root PLACE" in result.output


def test_an_edited_place_that_is_long_keeps_the_name_of_its_file(copy):
    recorded = Path(read_run(copy)["config"]["data"]["root"])
    text = (copy / "run.yaml").read_text()
    (copy / "run.yaml").write_text(text.replace(str(recorded), f"/{'folder/' * 40}my.npz"))
    assert "folder/my.npz', but was exported as" in ddcal("replay", copy).output


# What decides


def test_the_tolerance_is_ours(copy, tmp_path):
    def change(run):
        run["tolerance"] = 1e9
        run["metrics"]["test/ece"] += 1e-9
        run["stages"]["train"]["files"]["logits.safetensors"] = "0" * 64

    edit(copy, change)
    result = ddcal("replay", copy, "--data-root", tmp_path / "bob")
    assert result.exit_code == 1 and "different: test/ece, train/logits.safetensors" in result.output
    items = replay(copy, data_root=tmp_path / "bob")
    assert {item.tolerance for item in items} == {0.0} and all(item.compared for item in items)


def test_digests_do_not_count_on_another_gpu():
    other = Comparison("train/networks.safetensors", "0" * 64, "1" * 64, 0.02)
    assert not other.same and not other.compared
    assert not Comparison("x", "0" * 64, "0" * 64, 0.02).compared
    gone = Comparison("x", "0" * 64, None, 0.02)
    assert not gone.same and gone.compared, "a file that is missing is a difference everywhere"
    here = Comparison("x", "0" * 64, "1" * 64, 0.0)
    assert not here.same and here.compared


def short(run):
    """Keep the distilled set alone, so that no number of the networks is looked at."""
    run["target"], run["metrics"] = "distill", {}
    run["stages"] = {"distill": run["stages"]["distill"]} | {"evaluate": run["stages"]["evaluate"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run.update(target="distill"), "its target is distill"),
        (lambda run: run["stages"].pop("train"), "has the stages distill, train, calibrate, evaluate"),
        (short, "has the stages"),
        (lambda run: run.update(target="rm -rf"), "target is 'rm -rf'"),
        (lambda run: run["environment"].update(precision="float8"), "environment.precision is 'float8'"),
        (lambda run: run["environment"].update(threads=10**6), "environment.threads is 1000000"),
        (lambda run: run["environment"].update(threads=0), "environment.threads is 0"),
        (lambda run: run["environment"].update(threads="1"), "environment.threads is '1'"),
        (lambda run: run["environment"].update(device="/dev/zero"), "environment.device is '/dev/zero'"),
        (lambda run: run.update(environment=[]), "environment is []"),
        (lambda run: run.update(metrics={"test/ece": "good"}), "metrics.test/ece is 'good'"),
        (lambda run: run.update(metrics={"\x1b[2Jtest": 1.0}), "is not a plain name"),
        (lambda run: run.update(stages={}), "stages is {}"),
        (lambda run: run["stages"].update({"../x": run["stages"]["train"]}), "stages.../x"),
        (lambda run: run["stages"]["train"].update(files={"../../x": "0" * 64}), "not a plain name"),
        (lambda run: run["stages"]["train"].update(files={"x": "zero"}), "stages.train.files.x is 'zero'"),
        (lambda run: run["files"].update({"../../../../etc/passwd": "0" * 64}), "not a plain name"),
        (lambda run: run["files"].update({"/etc/passwd": "0" * 64}), "not a plain name"),
        (lambda run: run.update(models={"formats": [], "network": 0, "files": {"/x": "0" * 64}}), "not a plain name"),
        (lambda run: run.update(models=[1]), "models is [1]"),
        (lambda run: run.update(data_fingerprint=None), "data_fingerprint is None"),
        (lambda run: run.update(versions={"torch": 2}), "versions.torch is 2"),
        (lambda run: run["config"].update(seed="x"), "config.seed"),
        (lambda run: run.update(config={}), "--data-root"),
    ],
    ids=range(24),
)
def test_what_no_export_says_is_named_before_anything_runs(copy, tmp_path, change, said):
    edit(copy, change)
    arguments = [] if said == "--data-root" else ["--data-root", tmp_path / "bob"]
    result = ddcal("replay", copy, *arguments)
    if said == "--data-root":  # a trial of defaults: its data is scikit-learn's, and another
        assert result.exit_code == 2 and "data_fingerprint" in result.output
    else:
        assert result.exit_code == 2 and said in result.output
    assert result.output.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", ["README.md", "MLproject", "reliability.png", "distilled.png"])
def test_every_file_of_an_export_has_its_digest(copy, name):
    with (copy / name).open("ab") as stream:
        stream.write(b" ")
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and f"{copy / name} was changed" in result.output


def test_an_export_without_those_digests_is_still_read(copy, tmp_path):
    edit(copy, lambda run: run.pop("files"))
    (copy / "README.md").write_text("mine")
    assert ddcal("replay", copy, "--data-root", tmp_path / "bob").exit_code == 0


# Bombs, and what is no file


def aliases():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
    ]
    return "\n".join(lines)


BOMBS = {
    "aliases": aliases(),
    "deep": "[" * 100_000,
    "deep mappings": "\n".join("  " * depth + "a:" for depth in range(200)),
    "many": "[" + "0," * (MAX_NODES + 1) + "0]",
    "a key in every path": "? " + "k" * 400_000 + "\n: {" + ", ".join(f"a{i}: 0" for i in range(9_000)) + "}",
    "large": "#" * 1_000_001,
    "numbers": "[" + ", ".join(["9" * 60_000] * 10) + "]",
    "a tag": "!!python/object/apply:os.system [touch broken-into]",
    "base 60": "a: " + ":".join(["59"] * 100_000),
}

LIMITED = """
import resource, sys, time
limit = 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from ddcal.config.reading.yaml_reader import parse_yaml
from ddcal.untrusted import Untrusted
began = time.process_time()
try:
    parse_yaml(open(sys.argv[1]).read())
except Untrusted as error:
    assert len(str(error)) < 1000 and str(error).isprintable()
assert time.process_time() - began < 200
print("read")
"""


@pytest.mark.slow
@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_yaml_that_is_a_bomb_takes_little_memory_and_time(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "x.yaml"], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.stdout == "read\n", done.stderr[-2000:]
    assert not (tmp_path / "broken-into").exists()


@pytest.mark.parametrize(
    "text", [BOMBS["aliases"], BOMBS["many"], BOMBS["deep"], BOMBS["large"], BOMBS["a tag"]], ids=range(5)
)
def test_a_bomb_in_an_export_is_named(copy, text):
    (copy / "run.yaml").write_text(text)
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and f"{copy / 'run.yaml'} " in result.output


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" + "0," * 2_000_000 + "0]", '{"a": ' + "9" * 5000 + "}", '{"a": NaN}']
)
def test_a_bomb_in_a_lock_is_named(copy, text):
    (copy / "run.lock.json").write_text(text)
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and f"{copy / 'run.lock.json'} " in result.output


@pytest.mark.parametrize("name", [*FILES, "evaluation.json", "README.md", "networks/networks.safetensors", "networks"])
@pytest.mark.parametrize("kind", ["a FIFO", "/dev/zero", "/dev/stdin", "a folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(copy, name, kind):
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and str(path) in result.output


def test_a_link_out_of_an_export_is_not_followed(copy, tmp_path):
    (copy / "networks").rename(tmp_path / "moved")
    (copy / "networks").symlink_to(tmp_path / "moved")
    with pytest.raises(ExportError, match=r"networks\.safetensors lies behind a link"):
        read_run(copy)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "{folder}/fifo", "{folder}"])
def test_a_study_file_that_is_none_is_refused(path, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    result = ddcal("validate", path.format(folder=tmp_path))
    assert result.exit_code == 2 and "not a file; give a study file" in result.output


# Text that YAML 1.1 and 1.2 read differently


@pytest.mark.parametrize(
    "text", ["1e3", "0o7", "yes", "on", "1:30", "2024-01-01", "null", "~", "0x1f", "1_000", "", "é", "=", "<<"]
)
def test_what_is_written_is_read_back_as_it_was(text):
    value = {"classes": [text], "a": {text or "empty": text}, "b": 1e-05, "c": None, "d": True, "e": [1, 2.5]}
    assert parse_yaml(dump_yaml(value)) == value == yaml.safe_load(dump_yaml(value))


def test_yaml_that_is_none_says_where():
    with pytest.raises(Untrusted, match=r"^cannot be read: line 3: "):
        parse_yaml("a: 1\nb: [\n")


def test_another_version_that_is_ignored_is_no_difference(copy, tmp_path):
    """A distilled set's description holds the versions that made it; that of ddcal itself is never compared."""
    arguments = ("replay", copy, "--data-root", tmp_path / "bob")

    def made_with(package):
        path = copy / "distilled" / "synthetic.json"
        description = json.loads(path.read_text())
        description["provenance"]["versions"][package] = "0.0.1"
        path.write_text(json.dumps(description))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(copy, lambda run: run["stages"]["distill"]["files"].update({"synthetic.json": digest}))

    made_with("ddcal")
    assert ddcal(*arguments).exit_code == 0
    made_with("torch")
    assert "different: distill/synthetic.json" in ddcal(*arguments).output
    assert ddcal(*arguments, "--ignore-versions").exit_code == 0


def test_another_version_of_an_algorithm_is_said_before_anything_is_computed(copy, tmp_path):
    """Its key tells: everything else that is in a key is the run's."""
    edit(copy, lambda run: run["stages"]["distill"].update(key="0" * 64))
    arguments = ("replay", copy, "--data-root", tmp_path / "bob")
    refused = ddcal(*arguments)
    assert refused.exit_code == 2 and "the algorithm of its distill stage has another version since" in refused.output
    assert ddcal(*arguments, "--ignore-versions").exit_code == 0
