"""`ddcal validate --data` and the plan know of data sets that are one file an image."""

import pytest
from image_files import write_tiny_imagenet
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import TrialConfig
from ddcal.data import load_dataset
from ddcal.pipeline import run_trial
from ddcal.study.plan_disk import disk_uses
from ddcal.study.plan_stages import Candidates
from ddcal.study.planned import PlannedTrial


def validate(*arguments):
    return CliRunner().invoke(app, ["validate", *map(str, arguments)])


def test_data_that_is_not_there_is_said_where_it_was_asked_for(write_study, tmp_path):
    path = write_study(base={"data": {"name": "tiny-imagenet", "root": str(tmp_path)}})
    assert validate(path).exit_code == 0  # a study may be checked where its data is not
    found = validate(path, "--data")
    assert found.exit_code == 2 and "Traceback" not in found.output
    for part in (str(path), "base.data", str(tmp_path / "tiny-imagenet-200"), "wnids.txt", "val/val_annotations.txt"):
        assert part in found.output
    write_tiny_imagenet(tmp_path)
    assert validate(path, "--data").exit_code == 0
    (tmp_path / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_4.JPEG").unlink()
    found = validate(path, "--data")
    assert found.exit_code == 2 and "train/n01/images/n01_4.JPEG: missing" in found.output


def test_every_data_set_of_a_space_is_looked_for(write_study, tmp_path):
    path = write_study(
        base={"data": {"root": str(tmp_path)}}, space={"data.name": {"choice": ["digits", "mnist", "imagenette"]}}
    )
    found = validate(path, "--data").output
    assert "MNIST/raw" in found and "imagenette2" in found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "image-folder"}, "root is missing"),
        ({"name": "cifar10", "resize": "squash"}, "leave it out"),
        ({"name": "tiny-imagenet", "variant": "160px"}, "imagenette alone"),
    ],
)
def test_settings_that_a_data_set_has_not(write_study, data, message):
    found = validate(write_study(base={"data": data}))
    assert found.exit_code == 2 and message in found.output


@pytest.fixture
def trial(tmp_path):
    return TrialConfig.model_validate(
        {
            "data": {"name": "tiny-imagenet", "root": str(write_tiny_imagenet(tmp_path))},
            "network": {"width": 4, "depth": 2},
            "distill": {"backbone": "dsa", "ipc": 1, "iterations": 2, "probe": {"points": 1, "epochs": 1}},
            "train": {"epochs": 2, "networks": 1},
        }
    )


def test_the_plan_counts_the_decoded_images_until_they_are_there(trial, tmp_path):
    def decoded():
        extremes = [PlannedTrial(trial, {"evaluate": "key"})]
        found = disk_uses({}, dict[str, Candidates](), 1, set(), extremes, 1, tmp_path, tmp_path / "store")
        return [(use.worst, use.place) for use in found if use.what == "decoded tiny-imagenet, once"]

    assert decoded() == [(36 * 3 * 8 * 8, str(tmp_path / ".ddcal"))]
    load_dataset(trial.data)
    assert decoded() == []


@pytest.mark.parametrize("backbone", ["dsa", "dm", "real", "full"])
def test_a_trial_on_mapped_images(trial, tmp_path, backbone):
    distill = trial.distill.model_copy(update={"backbone": backbone})
    metrics = run_trial(trial.model_copy(update={"distill": distill}), store=tmp_path / "store")
    assert 0.0 <= metrics["test/accuracy"] <= 1.0 and 0.0 <= metrics["val/ece"] <= 1.0
