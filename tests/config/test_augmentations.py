"""Augmentations by name: which are settings, and what they mean beside the rest of a trial."""

import itertools

import pytest
from pydantic import ValidationError

from ddcal.config import TrainConfig, TrialConfig, resolve
from ddcal.config.augmentations import OPERATIONS, operations_of

SUBSETS = ["_".join(some) for size in range(1, 6) for some in itertools.combinations(OPERATIONS, size)]


def trial(backbone="rtp", dataset="cifar10", rtp=None, **train):
    distill = {"backbone": backbone, "ipc": 1, "rtp": rtp or {}}
    return TrialConfig.model_validate({"data": {"name": dataset}, "distill": distill, "train": train})


def test_every_subset_of_dsas_operations_is_an_augmentation_but_crop_flip_is_the_usual_one():
    assert len(SUBSETS) == 61 + 1
    for name in SUBSETS:
        assert TrainConfig(augment=name).augment == name
        assert "_".join(operations_of(name)) == name
    assert operations_of("dsa") == OPERATIONS and operations_of("none") == ()
    assert trial(rtp={"augment": "flip_rotate"}).distill.rtp.augment == "flip_rotate"
    with pytest.raises(ValidationError, match="crop_flip is not a draw of one of the two"):
        trial(rtp={"augment": "crop_flip"})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rotate_flip", "'rotate_flip' must be written 'flip_rotate': each operation once, in DSA's order"),
        ("crop_crop", "must be written 'crop'"),
        ("color_crop_cutout_flip_scale_rotate", "must be written 'dsa'"),
        ("crop_skew", "'crop_skew' must be one of none, dsa, crop_flip, or some of DSA's operations"),
        ("", "'' must be one of none"),
        ("flip_crop", "for example crop_scale_rotate"),
        (3, "3 must be one of none"),
    ],
)
def test_another_name_is_refused_with_what_would_be_right(name, said):
    with pytest.raises(ValidationError, match=said) as error:
        TrainConfig(augment=name)
    assert [details["loc"] for details in error.value.errors()] == [("augment",)]


@pytest.mark.parametrize("name", ["none", "flip_rotate", "dsa"])
def test_the_augmentation_of_rtp_holds_for_training_too(name):
    assert resolve(trial(rtp={"augment": name})).train.augment == name
    assert resolve(trial(rtp={"augment": name}, augment="crop")).train.augment == "crop"
    assert resolve(trial("dsa", rtp={"augment": name})).train.augment == "dsa"


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_a_flip_that_is_asked_for_is_refused_for_digits(dataset):
    for values in ({"rtp": {"augment": "flip_rotate", "bases": 2}}, {"backbone": "dc", "augment": "flip_rotate"}):
        key = "distill.rtp.augment" if "rtp" in values else "train.augment"
        with pytest.raises(ValueError, match=rf"{key} is 'flip_rotate', .* {dataset} .*: use 'rotate'"):
            trial(dataset=dataset, **values)
    with pytest.raises(ValueError, match="use 'none'"):
        trial("dc", dataset, augment="flip")
    for name in ("dsa", "crop_flip", "crop_scale_rotate"):
        assert trial("dc", dataset, augment=name).train.augment == name
