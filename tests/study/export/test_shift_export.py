"""``evaluate.shift`` from ``validate`` to ``replay``: other data that is here, missing, moved, changed or unfit."""

import shutil

import numpy as np
import pytest
import yaml
from test_cli_export_replay import ddcal

from ddcal.study import load_study

SHIFT = {"evaluate": {"shift": {"corruptions": ["contrast", "noise"], "datasets": ["./other.npz"], "images": 60}}}


def write_other(path, channels=3, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (30, 10, 10, channels), dtype=np.uint8)
    labels = np.arange(30) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)


@pytest.fixture
def study(write_study, tmp_path):
    write_other(tmp_path / "other.npz")
    return write_study(SHIFT, search={"trials": 1})


@pytest.mark.slow
def test_from_validate_to_replay(study, tmp_path, monkeypatch):
    monkeypatch.chdir("/")  # a path in a study is relative to its file
    assert ddcal("validate", study, "--data").exit_code == 0
    planned = ddcal("plan", study, "--probe")
    assert planned.exit_code == 0, planned.output
    ran = ddcal("run", study, "--debug", "--output", tmp_path / "runs")
    assert ran.exit_code == 0, ran.output
    results = load_study(tmp_path / "runs" / "tiny")
    trial, metrics = results.records[0], results.records[0].metrics
    assert trial.config.evaluate.shift.datasets == [str(tmp_path / "other.npz")]
    assert yaml.safe_load(study.read_text())["base"]["evaluate.shift.datasets"] == ["./other.npz"]
    assert 0.0 <= metrics["test/ood/other/auroc"] <= 1.0 and "test/raw/shift/noise-5/ece" in metrics
    folder = tmp_path / "export"
    assert ddcal("export", results.directory, "--to", folder).exit_code == 0
    assert (folder / "shift.png").is_file() and "shift.png" in (folder / "README.md").read_text()
    replayed = ddcal("replay", folder)
    assert replayed.exit_code == 0 and "DIFFERS" not in replayed.output, replayed.output

    bob = tmp_path / "bob"
    bob.mkdir()
    shutil.move(tmp_path / "other.npz", bob)
    missing = ddcal("replay", folder)
    assert missing.exit_code == 2 and "Traceback" not in missing.output
    assert "evaluate.shift.datasets has" in missing.output and "--data-root PLACE" in missing.output
    assert ddcal("replay", folder, "--data-root", bob).exit_code == 0
    write_other(bob / "other.npz", seed=1)
    changed = ddcal("replay", folder, "--data-root", bob)
    assert changed.exit_code == 2 and "other is another here than when the run was made" in changed.output


def test_data_that_cannot_be_taken_is_said_before_anything_runs(write_study, tmp_path):
    write_other(tmp_path / "other.npz", channels=2)
    study = write_study(SHIFT)
    for verb in (("validate", "--data"), ("run", "--debug", "--output", tmp_path / "out")):
        found = ddcal(verb[0], study, *verb[1:])
        assert found.exit_code == 2 and "base.evaluate.shift.datasets" in found.output, found.output
        assert "its images have 2 channels, those of the trial 1" in " ".join(found.output.split())
    (tmp_path / "other.npz").unlink()
    assert ddcal("validate", study).exit_code == 0  # a study may be checked where its data is not
    missing = ddcal("validate", study, "--data")
    assert missing.exit_code == 2 and "which does not exist" in " ".join(missing.output.split())
    assert not list((tmp_path / "out").rglob("trials")) if (tmp_path / "out").exists() else True


def test_nothing_may_be_selected_on_it(write_study):
    for metric, way in (("test/shift/all/ece", "min"), ("test/ood/other/auroc", "max")):
        found = ddcal("validate", write_study(SHIFT, objectives={metric: way}))
        assert found.exit_code == 2 and "selecting on the test set is refused" in " ".join(found.output.split())


def test_what_has_no_name_is_refused_with_its_key(write_study):
    base = {"evaluate": {"shift": {"corruptions": ["fog"], "datasets": ["cifar"], "strength": 3}}}
    found = " ".join(ddcal("validate", write_study(base)).output.split())
    for part in ("base.evaluate.shift.corruptions", "'fog'", "base.evaluate.shift.strength"):
        assert part in found
    mended = {"evaluate": {"shift": {"datasets": ["cifar"]}}}
    found = " ".join(ddcal("validate", write_study(mended)).output.split())
    assert "evaluate.shift.datasets has 'cifar'" in found and "did you mean 'cifar10'" in found
