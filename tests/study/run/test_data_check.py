"""`ddcal validate --data` and the plan know of data sets that are one file an image."""

import numpy as np
import pytest
import torch
from image_files import write_image, write_tiny_imagenet
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import TrialConfig
from ddcal.data import load_dataset
from ddcal.pipeline import run_trial
from ddcal.study.plan.candidates import Candidates
from ddcal.study.plan.disk import disk_uses
from ddcal.study.plan.planned import PlannedTrial


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


def write_digits(path, width=8, of_the_last=10):
    """An .npz of random 8 × ``width`` images: 3 classes of 10, the last of ``of_the_last``; 2 a class to test."""
    labels = np.array([0] * 10 + [1] * 10 + [2] * of_the_last)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(labels), 8, width), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:12], y_test=labels[:12])
    return str(path)


def asked_of_all(path, tmp_path):
    """(exit code, output) of validate --data, plan and run; nothing may be written."""
    found = [validate(path, "--data")]
    for verb in (["plan"], ["run", "--debug"]):
        found.append(CliRunner().invoke(app, [*verb, str(path), "--output", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("trials"))
    return [(result.exit_code, result.output) for result in found]


def test_a_class_with_too_few_images_is_said_before_the_first_trial(write_study, tmp_path):
    data = {"name": "npz", "root": write_digits(tmp_path / "rare.npz", of_the_last=4)}
    path = write_study(base={"data": data, "distill": {"backbone": "real", "ipc": 5}})
    for code, said in asked_of_all(path, tmp_path):
        assert code == 2 and "Traceback" not in said
        assert (
            "base.distill.ipc: 5 is not allowed: must be at most 4" in said and "class 2 has 4 training images" in said
        )
    path = write_study(
        base={"data": data}, space={"distill.ipc": {"choice": [1, 8]}, "distill.backbone": {"choice": ["real", "dm"]}}
    )
    found = validate(path, "--data")  # other trials of the study can run
    assert found.exit_code == 0 and "space.distill.ipc: 8 is not allowed: must be at most 4" in found.output
    assert "trials with it will fail" in found.output
    assert "warning" not in validate(path, "--data", "--set", "space.distill.ipc.choice=[1,4]").output
    found = validate(path, "--data", "--set", "space.distill.ipc.choice=[5,8]")
    assert found.exit_code == 2 and "5 is not allowed" in found.output and "8 is not allowed" in found.output


def test_images_that_are_not_square_are_said_before_the_first_trial(write_study, tmp_path):
    path = write_study(base={"data": {"name": "npz", "root": write_digits(tmp_path / "wide.npz", width=6)}})
    for code, said in asked_of_all(path, tmp_path):
        assert code == 2 and "Traceback" not in said and "x_train has shape (30, 8, 6), images of 8 × 6 px" in said


def test_pictures_are_looked_at_before_the_first_trial(write_study, tmp_path):
    for part in ("train", "test"):
        for label in ("a", "b"):
            for index in range(10):
                write_image(tmp_path / "pictures" / part / label / f"{index}.png", index)
    path = write_study(base={"data": {"name": "image-folder", "root": str(tmp_path / "pictures")}})
    assert validate(path, "--data").exit_code == 0
    odd = tmp_path / "pictures" / "train" / "b" / "9.png"
    whole = odd.read_bytes()
    write_image(odd, 3, (9, 8))
    for code, said in asked_of_all(path, tmp_path):
        assert code == 2 and "train/b/9.png: 9 × 8 px where others have 8 × 8: set data.resolution" in said
    odd.write_bytes(b"no picture")
    for code, said in asked_of_all(path, tmp_path):
        assert code == 2 and "train/b/9.png: cannot identify it" in said
    odd.write_bytes(whole)
    write_image(odd.with_name("8.png"), 5, mode="RGBA")
    odd.with_name("a.gif").write_bytes(b"")
    for index, (code, said) in enumerate(asked_of_all(path, tmp_path)[:2]):
        said = " ".join(said.split())
        assert code == 0 and "1 of 40 images may be transparent; they are laid on white (data.background)" in said, (
            index
        )
        assert "files of these kinds are not read: 1 .gif" in said


def test_a_file_of_distilled_tensors_is_compared_with_pictures(write_study, tmp_path):
    for part in ("train", "test"):
        for label in range(2):
            for index in range(6):
                write_image(tmp_path / part / str(label) / f"{index}.png", 10 * label + index)
    torch.save((torch.rand(2, 3, 8, 8), torch.arange(2)), tmp_path / "set.pt")
    file = {"images": str(tmp_path / "set.pt"), "preprocessing": "normalized"}
    data = {"name": "image-folder", "root": str(tmp_path)}
    base = {"data": data, "distill": {"backbone": "file", "ipc": 1, "file": file}}
    found = validate(write_study(base=base), "--data")
    assert found.exit_code == 0 and "is 'normalized', but all values lie in [0, 1]" in found.output


def test_a_tiny_imagenet_of_other_classes_is_not_the_published_one(write_study, tmp_path):
    write_tiny_imagenet(tmp_path)
    found = validate(write_study(base={"data": {"name": "tiny-imagenet", "root": str(tmp_path)}}), "--data")
    assert found.exit_code == 0
    assert (
        "wnids.txt lists 3 classes, and the official Tiny-ImageNet has 200: scores are not comparable" in found.output
    )


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


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["dsa", "dm", "real", "full"])
def test_a_trial_on_mapped_images(trial, tmp_path, backbone):
    distill = trial.distill.model_copy(update={"backbone": backbone})
    metrics = run_trial(trial.model_copy(update={"distill": distill}), store=tmp_path / "store")
    assert 0.0 <= metrics["test/accuracy"] <= 1.0 and 0.0 <= metrics["val/ece"] <= 1.0
