"""``ddcal export`` and ``ddcal replay`` on a small study of real digits, and on exports that somebody changed."""

import dataclasses
import json
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch
import yaml
from ledgers import plain_events, write_plain
from typer.testing import CliRunner

from ddcal.analysis.calibration_rows import calibration_rows
from ddcal.calibration import load_calibrator
from ddcal.cli import app
from ddcal.distill import SyntheticSet
from ddcal.study import load_study, run_study
from ddcal.study.export.export import ExportError, export_trial
from ddcal.study.export.replay import replay

FILES = {
    "README.md", "MLproject", "run.yaml", "run.lock.json", "evaluation.json", "reliability.png",
    "distilled/synthetic.safetensors", "distilled/synthetic.json", "networks/networks.safetensors",
    "networks/calibration.json", "distilled.png",
}  # fmt: skip


def ddcal(*arguments):
    """Run a verb in this process; whatever happens, nobody sees a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_study):
    """A study's folder: two good trials on one distilled set, and one that diverged."""
    space = {"train.lr": {"choice": [0.01, 1e30]}, "calibrate.mask.ratio": {"uniform": [0.0, 0.9]}}
    enqueue = [{"train.lr": 0.01, "calibrate.mask.ratio": ratio} for ratio in (0.2, 0.8)] + [{"train.lr": 1e30}]
    config = tiny_study(space=space, search={"trials": 3, "enqueue": enqueue}, constraints={"val/accuracy": ">= 0.05"})
    return run_study(config, output=tmp_path_factory.mktemp("runs"), debug=True).directory


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    """The winner's export; read it only."""
    folder = tmp_path_factory.mktemp("exports") / "best"
    assert ddcal("export", study, "--to", folder).exit_code == 0
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """An export of one's own to change."""
    return shutil.copytree(exported, tmp_path / "best")


def contents(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Export


def test_the_winner_is_a_folder_of_everything(study, exported):
    assert contents(exported) == FILES
    run = yaml.safe_load((exported / "run.yaml").read_text())
    best = load_study(study).best
    assert run["trial_key"] == best.trial_key and run["metrics"] == best.metrics
    assert run["config"]["calibrate"]["mask"]["ratio"] == best.values["calibrate.mask.ratio"]
    assert run["environment"] == {"device": "cpu", "precision": "float32", "threads": 1} and run["tolerance"] == 0.0
    assert {"torch", "numpy", "python", "ddcal"} <= set(run["versions"])
    assert {stage: record["key"] for stage, record in run["stages"].items()} == best.keys
    assert json.loads((exported / "run.lock.json").read_text()) == run
    assert "ddcal replay ." in (exported / "README.md").read_text()
    assert not list(exported.parent.glob(".*"))


def test_labels_by_experts_are_exported_and_replayed(tmp_path, tiny_study):
    base = {"labels.source": "experts", "distill.mtt.experts": {"epochs": 2, "batch_size": 128}, "train.networks": 1}
    config = tiny_study(base=base, space={"labels.temperature": {"choice": [2.0]}}, search={"trials": 1})
    directory = run_study(config, output=tmp_path, debug=True).directory
    result = ddcal("export", directory, "--to", tmp_path / "best")
    assert result.exit_code == 0
    labels = {"distilled/labels.json", "distilled/labels.safetensors"}
    assert contents(tmp_path / "best") - {"progress.png"} == FILES | labels
    assert "`labels.safetensors`: the experts' labels" in (tmp_path / "best" / "README.md").read_text()
    synthetic = SyntheticSet.load(tmp_path / "best" / "distilled")
    assert synthetic.labels.ndim == 2
    assert torch.equal(synthetic.classes, torch.arange(10).repeat_interleave(synthetic.images_per_class))
    compared = replay(tmp_path / "best")
    assert all(item.same for item in compared)
    assert {"labels/labels.safetensors", "experts/experts.json", "test/teacher/ece"} <= {one.name for one in compared}
    own, teacher = (row for row in calibration_rows(load_study(directory).best)[1] if row.own or row.teacher)
    assert own.notes[:1] == ["this trial"] and (teacher.name, teacher.notes) == ("teacher", ["gave the labels"])


@pytest.mark.slow
def test_calibrators_and_folds_are_exported_and_replayed(tmp_path, tiny_study):
    space = {"calibrate.method": {"choice": ["vs_val", "ts_cv"]}}
    enqueue = [{"calibrate.method": method} for method in ("vs_val", "ts_cv")]
    base = {"train.networks": 2, "distill.ipc": 4, "calibrate.folds": 2}
    config = tiny_study(base=base, space=space, search={"trials": 2, "enqueue": enqueue})
    directory = run_study(config, output=tmp_path, debug=True).directory
    rows = load_study(directory).trials
    assert rows["key/folds"].isna().tolist() == [True, False]
    for number in (0, 1):
        assert ddcal("export", directory, "--trial", number, "--to", tmp_path / str(number)).exit_code == 0
        compared = replay(tmp_path / str(number))
        assert all(item.same for item in compared)
        names = {item.name for item in compared}
        assert ("calibrate/calibrators/1/calibrator.safetensors" in names) == (number == 0)
        assert ("folds/folds.safetensors" in names) == (number == 1)
    calibrator = load_calibrator(tmp_path / "0" / "networks" / "calibrators" / "1")
    assert calibrator.name == "vector"
    files = {f"networks/calibrators/{i}/calibrator.{kind}" for i in range(2) for kind in ("json", "safetensors")}
    assert contents(tmp_path / "0") == FILES | files and contents(tmp_path / "1") == FILES
    changed = tmp_path / "0" / "networks" / "calibrators" / "1" / "calibrator.json"
    changed.write_text(changed.read_text() + " ")
    result = ddcal("replay", tmp_path / "0")
    assert result.exit_code == 2 and "calibrator.json was changed" in result.output.replace("\n", "")


@pytest.mark.parametrize("name", ["1", "tiny-0001"])
def test_a_trial_is_chosen_by_number_or_key(study, tmp_path, name):
    assert ddcal("export", study, "--trial", name, "--to", tmp_path / "out").exit_code == 0
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["trial_key"] == "tiny-0001"


def test_the_whole_front_is_a_folder_a_trial(study, tmp_path):
    result = ddcal("export", study, "--pareto", "--to", tmp_path / "front")
    keys = {trial.trial_key for trial in load_study(study).pareto}
    assert result.exit_code == 0 and {path.name for path in (tmp_path / "front").iterdir()} == keys
    for key in keys:
        assert contents(tmp_path / "front" / key) == FILES and key in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trial", "9"], ["no trial '9'", "0 to 2"]),
        (["--trial", "tiny"], ["no trial 'tiny'"]),
        (["--trial", "2"], ["tiny-0002", "failed", "no result"]),
        (["--trial", "0", "--pareto"], ["--trial", "--pareto"]),
    ],
)
def test_what_cannot_be_exported_is_said(study, tmp_path, arguments, said):
    result = ddcal("export", study, *arguments, "--to", tmp_path / "out")
    assert result.exit_code == 2 and all(word in result.output for word in said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("outcome", ["pruned", "failed", "out_of_memory", "killed", None])
def test_a_trial_that_did_not_come_to_its_end_is_not_exported(study, tmp_path, outcome):
    """Although its last point is in the table and its stages may be in the store."""
    results = load_study(study)
    trial = dataclasses.replace(results.records[0], outcome=outcome)
    with pytest.raises(ExportError, match=f"tiny-0000 is {outcome or 'unfinished'}, so it has no result to export"):
        export_trial(results, trial, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused(study, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    result = ddcal("export", study, "--to", tmp_path / "out")
    assert result.exit_code == 2 and "--to" in result.output and "exists" in result.output
    assert contents(tmp_path) == {"out/mine.txt"}


def test_a_target_below_a_file_is_refused(study, tmp_path):
    (tmp_path / "file").write_text("")
    result = ddcal("export", study, "--to", tmp_path / "file" / "out")
    assert result.exit_code == 2 and "--to" in result.output
    assert contents(tmp_path) == {"file"}


def test_no_study_is_said(tmp_path):
    result = ddcal("export", tmp_path, "--to", tmp_path / "out")
    assert result.exit_code == 2 and str(tmp_path) in result.output and "ledger" in result.output


def test_without_a_feasible_trial_there_is_no_winner(tiny_study, tmp_path):
    config = tiny_study(constraints={"val/accuracy": ">= 0.999"}, search={"trials": 1})
    run_study(config, output=tmp_path, debug=True)
    for arguments in ([], ["--pareto"]):
        result = ddcal("export", tmp_path / "tiny", *arguments, "--to", tmp_path / "out")
        assert result.exit_code == 1 and "no trial is feasible" in result.output
    assert ddcal("export", tmp_path / "tiny", "--trial", "0", "--to", tmp_path / "out").exit_code == 0


def test_a_stage_that_the_store_has_lost_is_named(study, tmp_path):
    runs = shutil.copytree(study.parent, tmp_path / "runs")
    ledger = runs / "tiny" / "ledger.jsonl"
    write_plain(ledger, json.loads(json.dumps(plain_events(ledger)).replace(str(study.parent), str(runs))))
    shutil.rmtree(runs / "store" / "train")
    result = ddcal("export", runs / "tiny", "--to", tmp_path / "out")
    assert result.exit_code == 2 and "train" in result.output and str(runs / "store") in result.output
    assert not (tmp_path / "out").exists()


# Replay


def test_a_replay_is_equal_to_the_last_bit(exported):
    result = ddcal("replay", exported)
    assert result.exit_code == 0
    assert "DIFFERS" not in result.output and "metrics and artefacts equal" in result.output


def test_a_replay_is_told_as_json(exported):
    result = ddcal("replay", exported, "--json")
    items = json.loads(result.stdout)
    assert result.exit_code == 0 and all(item["same"] and item["tolerance"] == 0.0 for item in items)
    names = {item["name"] for item in items}
    assert {"test/ece", "val/nll", "temperature"} <= names
    assert {"distill/synthetic.safetensors", "train/networks.safetensors", "calibrate/calibration.json"} <= names
    assert {item["name"]: item["replayed"] for item in items}["test/ece"] > 0


def test_a_replay_may_use_finished_stages(study, exported):
    before = contents(study.parent / "store")
    result = ddcal("replay", exported, "--use-store", study.parent / "store", "--all")
    assert result.exit_code == 0 and "val/raw/ece" in result.output
    assert contents(study.parent / "store") == before


def edit(path, key, value=None, remove=False):
    """Set or remove a dotted key of a YAML or JSON file."""
    parse, write = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    values = parse(path.read_text())
    *parents, last = key.split("|")
    place = values
    for parent in parents:
        place = place[parent]
    if remove:
        del place[last]
    else:
        place[last] = value
    path.write_text(write(values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config|seed", 1),
        ("config|distill|ipc", 1),
        ("config|train|lr", 0.2),
        ("config|calibrate|mask|ratio", 0.0),
        ("config|data|name", "cifar10"),
        ("metrics|test/ece", 0.0),
        ("metrics|val/accuracy", "0.5"),
        ("stages|train|key", "0" * 64),
        ("stages|distill|files|synthetic.safetensors", "0" * 64),
        ("environment|threads", 2),
        ("environment|threads", True),
        ("tolerance", 1.0),
        ("tolerance", 0),
        ("versions|torch", "1.0"),
        ("data_fingerprint", "0" * 64),
        ("outcome", None),
        ("confirmed", True),
        ("format_version", 2),
        ("config|extra", 1),
        ("metrics|test/new", 1.0),
        ("a new key", {"a": [1]}),
    ],
)
def test_an_edited_value_is_named(copy, key, value):
    edit(copy / "run.yaml", key, value)
    result = ddcal("replay", copy)
    assert result.exit_code == 2
    assert f"{copy / 'run.yaml'}: {key.replace('|', '.')} is {value!r}"[:150] in result.output or isinstance(
        value, dict
    )
    assert key.split("|")[-1] in result.output and "exported as" in result.output


def test_the_file_that_was_edited_is_named(copy):
    """The other one is as it was exported; of an older export only one of the two is known."""
    path = copy / "run.lock.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    said = ddcal("replay", copy).output
    assert f"{path}: config.seed is 1, but was exported as 0" in said and "run.yaml" not in said
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 0'))
    run, old = copy / "run.yaml", (copy / "run.yaml").read_text()
    run.write_text(old.replace("\n  seed: 0\n", "\n  seed: 2\n"))
    said = ddcal("replay", copy).output
    assert f"{run}: config.seed is 2, but was exported as 0" in said and "run.lock.json" not in said
    run.write_text("".join(line for line in run.read_text().splitlines(True) if "sha256 of" not in line))
    said = ddcal("replay", copy).output
    assert "config.seed is 2, but was exported as 0" in said and "if that was edited, restore it" in said


@pytest.mark.parametrize(
    "key", ["config|seed", "config|train", "metrics|val/nll", "stages|calibrate", "versions", "tolerance", "target"]
)
def test_a_removed_key_is_named(copy, key):
    edit(copy / "run.yaml", key, remove=True)
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and key.replace("|", ".") in result.output and "is missing" in result.output


@pytest.mark.parametrize(
    "key", ["config", "target", "environment", "data_fingerprint", "versions", "tolerance", "metrics", "stages"]
)
def test_a_key_that_is_missing_in_both_files_is_named(copy, key):
    for name in ("run.yaml", "run.lock.json"):
        edit(copy / name, key, remove=True)
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and f"run.yaml: {key} is missing" in result.output


@pytest.mark.parametrize("name", ["run.yaml", "run.lock.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a: [",
        b"- 1\n- 2\n",
        b"just words",
        b"\x00\x01\xff\xfe",
        b"\xff" * 40,
        b"[" * 5000,
        b"!!python/object:a {}",
    ],
    ids=["empty", "torn", "a list", "words", "binary", "not utf-8", "deep", "a tag"],
)
def test_a_file_that_is_none_is_named(copy, name, content):
    (copy / name).write_bytes(content)
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and name in result.output


@pytest.mark.parametrize("name", ["run.yaml", "run.lock.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and f"{name} is missing" in result.output and str(copy) in result.output


@pytest.mark.parametrize("name", ["run.yaml", "nothing"])
def test_what_is_no_folder_is_said(copy, name):
    result = ddcal("replay", copy / name)
    assert result.exit_code == 2 and name in result.output


@pytest.mark.parametrize("change", ["one bit", "cut short", "removed"])
@pytest.mark.parametrize(
    "name",
    [
        "distilled/synthetic.safetensors",
        "distilled/synthetic.json",
        "networks/networks.safetensors",
        "networks/calibration.json",
        "evaluation.json",
    ],
)
def test_a_changed_artefact_is_named(copy, name, change):
    path = copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if change == "removed":
        path.unlink()
    else:
        path.write_bytes(content if change == "one bit" else path.read_bytes()[:-1])
    result = ddcal("replay", copy)
    assert result.exit_code == 2
    assert f"{path} {'is missing' if change == 'removed' else 'was changed'}" in result.output


def test_a_run_whose_numbers_do_not_come_out_differs(copy):
    for name in ("run.yaml", "run.lock.json"):
        edit(copy / name, "metrics|test/ece", 0.123)
        edit(copy / name, "metrics|test/invented", 0.5)
    result = ddcal("replay", copy)
    assert result.exit_code == 1
    assert "different: test/ece, test/invented" in result.output and "DIFFERS" in result.output
    items = {item["name"]: item for item in json.loads(ddcal("replay", copy, "--json").stdout)}
    assert not items["test/ece"]["same"] and items["test/invented"]["replayed"] is None


@pytest.mark.parametrize("package", ["torch", "numpy", "ddcal"])
def test_another_version_is_named_and_may_be_ignored(copy, package):
    stages = json.loads((copy / "run.lock.json").read_text())["stages"]
    for name in ("run.yaml", "run.lock.json"):
        edit(copy / name, f"versions|{package}", "0.0.1")
        for stage in stages if package != "ddcal" else ():
            edit(copy / name, f"stages|{stage}|versions|{package}", "0.0.1")
    result = ddcal("replay", copy)
    assert result.exit_code == 2
    assert f"versions.{package}" in result.output and f"{package}==0.0.1" in result.output
    assert "the run used" in result.output
    if package == "torch":
        assert ddcal("replay", copy, "--ignore-versions").exit_code == 0


def test_a_stage_that_another_version_computed_is_named(copy):
    """It was in the store already when the trial ran."""
    for name in ("run.yaml", "run.lock.json"):
        assert json.loads((copy / "run.lock.json").read_text())["stages"]["distill"]["versions"]["torch"]
        edit(copy / name, "stages|distill|versions|torch", "0.0.1")
    result = ddcal("replay", copy)
    assert result.exit_code == 2, result.output
    assert f"versions.torch: here {version('torch')}, the run's distill used 0.0.1" in " ".join(result.output.split())


def test_another_version_of_what_changes_no_number_does_not_matter(copy):
    for name in ("run.yaml", "run.lock.json"):
        edit(copy / name, "versions|mlflow", "0.0.1")
    assert ddcal("replay", copy).exit_code == 0


def test_a_run_on_a_gpu_is_refused_without_one(copy):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for name in ("run.yaml", "run.lock.json"):
        edit(copy / name, "environment|device", "cuda:some GPU")
    result = ddcal("replay", copy)
    assert result.exit_code == 2 and "environment.device" in result.output


def test_other_data_is_named(tiny_study, tmp_path):
    def write(path, shift):
        random = np.random.default_rng(0)
        parts = {}
        for part, count in (("train", 90), ("test", 30)):
            parts[f"x_{part}"] = random.integers(0, 200, (count, 8, 8, 1), dtype=np.uint8) + np.uint8(shift)
            parts[f"y_{part}"] = np.arange(count) % 3
        np.savez(path, **parts)

    data = tmp_path / "tiny.npz"
    write(data, 0)
    base = {"data.name": "npz", "data.root": str(data)}
    results = run_study(tiny_study(base=base, search={"trials": 1}), output=tmp_path / "runs", debug=True)
    assert results.records[0].outcome == "complete"
    assert ddcal("export", results.directory, "--to", tmp_path / "best").exit_code == 0
    assert ddcal("replay", tmp_path / "best").exit_code == 0
    write(data, 1)
    result = ddcal("replay", tmp_path / "best")
    assert result.exit_code == 2 and "data_fingerprint" in result.output and "npz" in result.output
    data.unlink()
    result = ddcal("replay", tmp_path / "best")
    assert result.exit_code == 2 and str(data) in result.output
