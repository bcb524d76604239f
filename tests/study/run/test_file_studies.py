"""Studies on distilled sets from files: checked before anything runs, and replayed without the file."""

import json

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import DataConfig, TrialConfig
from ddcal.data import load_dataset
from ddcal.distill import SyntheticSet
from ddcal.errors import BadInput
from ddcal.pipeline import Environment, TrialRunner, open_store
from ddcal.study import load_study

LABELS = torch.arange(10).repeat_interleave(2)


def ddcal(*arguments):
    """Run a verb in this process; whatever happens, nobody sees a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def files(tmp_path):
    """A good pair of files, and others, in the test's folder."""
    train = load_dataset(DataConfig()).train
    images = train.images[torch.cat([train.indices_of(label)[:2] for label in range(10)])]
    logits = 3.0 * torch.eye(10)[LABELS] + torch.rand(20, 10, generator=torch.Generator().manual_seed(0))
    made = {
        "images": images,
        "labels": LABELS,
        "logits": logits,
        "pixels": torch.rand(20, 1, 8, 8),
        "large": torch.randn(20, 1, 9, 9),
    }
    for name, tensor in made.items():
        torch.save(tensor, tmp_path / f"{name}.pt")
    (tmp_path / "corrupt.pt").write_bytes(b"PK\x03\x04 not what it was")
    return tmp_path


@pytest.fixture
def study_of(files, write_study):
    """study_of(images="images", **changes) -> the path of a study on those files."""

    def write(images="images", space=None, labels="labels", **changes):
        file = {"images": str(files / f"{images}.pt"), "labels": str(files / f"{labels}.pt")}
        file |= {} if labels == "labels" else {"labels_are": labels}
        base = {"distill": {"backbone": "file", "file": {**file, "preprocessing": "normalized", "lr": 0.05}}}
        path = write_study(base, **({} if space is None else {"space": space}))
        values = yaml.safe_load(path.read_text())
        del values["base"]["train.lr"]
        values["base"] |= changes
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["labels", "logits"])
def test_a_set_is_trained_on_exported_and_replayed_without_its_file(labels, study_of, files, tmp_path):
    study = study_of(labels=labels)
    assert ddcal("validate", study).exit_code == 0
    assert ddcal("run", study, "--debug", "--output", tmp_path / "runs").exit_code == 0
    best = load_study(tmp_path / "runs" / "tiny").best
    config = best.config if isinstance(best.config, dict) else best.config.model_dump()
    assert config["train"]["lr"] == 0.05  # as published
    for name in ("images", labels):
        (files / f"{name}.pt").rename(files / f"gone-{name}.pt")
    out = tmp_path / "best"
    assert ddcal("export", tmp_path / "runs" / "tiny", "--to", out).exit_code == 0
    readme = (out / "README.md").read_text()
    assert "`distilled/source.safetensors`" in readme and "`distilled.png`" in readme and "progress.png" not in readme
    assert imread(out / "distilled.png").std() > 0.1
    result = ddcal("replay", out)
    assert result.exit_code == 0, result.output
    assert str(files) not in (out / "distilled" / "synthetic.json").read_text()
    kept = SyntheticSet.load(out / "distilled")
    assert torch.equal(kept.hard_labels(), LABELS) and kept.labels.ndim == (1 if labels == "labels" else 2)


@pytest.mark.slow
def test_a_copy_elsewhere_is_the_same_stage(study_of, files, tmp_path):
    """And another lr or content is another one."""
    study = study_of()
    moved = {"distill.file": {"images": str(files / "moved.npz"), "preprocessing": "normalized", "lr": 0.05}}
    np.savez(files / "moved.npz", images=torch.load(files / "images.pt").numpy(), labels=LABELS.numpy())
    keys = {}
    for name, changes in (("here", {}), ("moved", moved), ("lr", {"distill.file.lr": 0.06})):
        values = yaml.safe_load(study.read_text())
        values["name"], values["search"]["trials"] = name, 1
        values["base"] |= changes
        if "distill.file" in changes:
            values["base"] = {n: v for n, v in values["base"].items() if not n.startswith("distill.file.")}
        if name == "lr":
            values["base"]["distill.file.lr"] = 0.06
        study.write_text(yaml.safe_dump(values))
        assert ddcal("run", study, "--debug", "--output", tmp_path / "runs").exit_code == 0
        study = study_of()
        keys[name] = load_study(tmp_path / "runs" / name).records[0].keys["distill"]
    assert keys["here"] == keys["moved"] != keys["lr"]


@pytest.mark.parametrize(
    ("images", "changes", "said"),
    [
        ("absent", {}, ["base.distill.file.images", "absent.pt", "there is no such file"]),
        ("corrupt", {}, ["base.distill.file.images", "corrupt.pt", "cannot be read"]),
        ("large", {}, ["base.distill.file.images", "large.pt", "(20, 1, 9, 9)", "(M, 1, 8, 8)"]),
        ("images", {"distill.ipc": 3}, ["base.distill.ipc: 3", "must be 2"]),
        ("images", {"distill.file.preprocessing": "pixels"}, ["base.distill.file.images", "pixels are in [0, 1]"]),
        ("images", {"distill.file.preprocessing": None}, ["distill.file.preprocessing is missing"]),
        ("images", {"distill.file.images": None}, ["distill.file.images is missing"]),
        ("images", {"distill.file.preprocessing": "zca"}, ["'zca' but data.zca is false"]),
        ("images", {"data.zca": True}, ["'normalized' but data.zca is true", "distill.file.mean"]),
        ("images", {"distill.file.mean": [0.5]}, ["mean is given without std"]),
    ],
)
def test_what_cannot_be_imported_is_said_before_anything_runs(images, changes, said, study_of, tmp_path):
    base = {"distill.ipc": 2, **changes}
    study = study_of(images)
    values = yaml.safe_load(study.read_text())
    flat = {n: v for n, v in values["base"].items() if n not in changes}
    values["base"] = {**flat, **base}
    study.write_text(yaml.safe_dump(values))
    for verb in (["validate"], ["run", "--debug", "--output", tmp_path / "runs"], ["plan", "--output", tmp_path]):
        result = ddcal(*verb[:1], study, *verb[1:])
        assert result.exit_code == 2, (verb, result.output)
        assert all(words in result.output for words in said), result.output
    assert not (tmp_path / "runs").exists()


def test_what_is_searched_is_said_in_the_space(study_of, files):
    paths = [str(files / "images.pt"), str(files / "absent.pt")]
    study = study_of(space={"distill.file.images": {"choice": paths}})
    result = ddcal("validate", study)
    assert result.exit_code == 2
    assert "space.distill.file.images" in result.output and "absent.pt" in result.output
    assert "'" + paths[0] not in result.output
    other = study_of(
        "absent", space={"distill.backbone": {"choice": ["real", "dc"]}, "calibrate.mask.ratio": {"uniform": [0, 0.9]}}
    )
    assert ddcal("validate", other).exit_code == 0  # nobody asks for the file


def test_doubts_are_told_and_refuse_nothing(study_of):
    study = study_of("pixels")
    result = ddcal("validate", study)
    assert result.exit_code == 0 and "warning" in result.output and "all values lie in [0, 1]" in result.output
    plan = ddcal("plan", study, "--json")
    assert any("all values lie in [0, 1]" in warning for warning in json.loads(plan.stdout)["warnings"])


def test_a_file_that_changes_under_a_trial_is_refused(files, tmp_path):
    """What it holds then is not what the stage's key says."""
    file = {"images": str(files / "images.pt"), "labels": str(files / "labels.pt"), "preprocessing": "normalized"}
    trial = TrialConfig.model_validate({"distill": {"backbone": "file", "ipc": 2, "file": file}})
    runner = TrialRunner(trial, open_store(tmp_path / "store"), Environment("cpu", 1), target="distill")
    torch.save(torch.randn(20, 1, 8, 8), files / "images.pt")
    with pytest.raises(BadInput, match=r"distill\.file\.images: .*images\.pt changed meanwhile"):
        runner.run()
    assert not runner.store.has("distill", runner.keys["distill"])
