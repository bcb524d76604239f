"""The calibrations by name: what each saw, its bounds, and what a trial must have for it."""

import pytest
from pydantic import ValidationError

from ddcal.config import TrialConfig, resolve
from ddcal.config.calibrations import (
    CALIBRATIONS,
    default_bounds,
    real_labels_used,
)
from ddcal.config.trial import folds_of
from ddcal.pipeline.costs import image_words

VAL_METHODS = [method for method, one in CALIBRATIONS.items() if one.real_labels]
FOLD_METHODS = [method for method, one in CALIBRATIONS.items() if one.cross_validates]


def trial(method, **sections):
    values = {"calibrate": {"method": method}, "distill": {"backbone": "real", "ipc": 10}}
    return {name: {**values.get(name, {}), **sections.get(name, {})} for name in {*values, *sections}}


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_methods_that_fit_on_val_say_so_and_count_it(method):
    assert (method in VAL_METHODS) == method.endswith("_val")
    assert real_labels_used(method, 500) == (500 if method.endswith("_val") else 0)
    assert real_labels_used(method, 500, searched=["distill.ipc", "train.lr"]) == real_labels_used(method, 500)
    assert real_labels_used(method, 500, searched=["calibrate.t_max"]) == 500


def test_masking_val_uses_its_labels():
    assert real_labels_used("mts", 500, full_data=True) == 500
    assert real_labels_used("ts_train", 500, full_data=True) == 0
    assert real_labels_used("mts", 500, searched=["calibrate.mask.ratio"]) == 500


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'platt' is no calibrator: it must be one of none, ts_train"):
        real_labels_used("platt", 1)


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_the_bounds_in_force(method):
    on_training_images = method in ("ts_train", "mts", "mts_distilled")
    assert default_bounds(method) == ((1.0, 20.0) if on_training_images else (0.05, 20.0))
    given = trial(method, train={"holdout": 0.1})
    assert resolve(TrialConfig.model_validate(given)).calibrate.t_min == default_bounds(method)[0]


@pytest.mark.parametrize("method", FOLD_METHODS)
@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"distill": {"ipc": 1}}, "but distill.ipc is 1: every image is predicted by a network that was trained on"),
        (
            {"distill": {"ipc": 2}, "train": {"holdout": 0.5}},
            "but distill.ipc is 2 and train.holdout leaves 1 of them: .* at least 2",
        ),
        ({"distill": {"backbone": "full"}}, "but distill.backbone is 'full': use 'ts_val' there"),
    ],
)
def test_what_cannot_be_cut_into_folds_is_refused_with_the_reason(method, sections, said):
    with pytest.raises(ValidationError, match=f"calibrate.method is '{method}' {said}"):
        TrialConfig.model_validate(trial(method, **sections))


@pytest.mark.parametrize("method", VAL_METHODS)
def test_fits_on_val_need_one(method):
    with pytest.raises(ValidationError, match=f"calibrate.method is '{method}' but data.validation_fraction is 0"):
        TrialConfig.model_validate(trial(method, data={"validation_fraction": 0.0}))


def test_one_fold_is_none():
    with pytest.raises(ValidationError, match="folds"):
        TrialConfig.model_validate(trial("ts_cv", calibrate={"method": "ts_cv", "folds": 1}))


@pytest.mark.parametrize(
    ("ipc", "holdout", "folds", "expected"), [(10, 0.0, 5, 5), (3, 0.0, 5, 3), (10, 0.7, 5, 3), (50, 0.0, 100, 50)]
)
def test_there_are_never_more_folds_than_images_of_a_class(ipc, holdout, folds, expected):
    sections = {"distill": {"ipc": ipc}, "train": {"holdout": holdout}}
    given = trial("ts_cv", calibrate={"method": "ts_cv", "folds": folds}, **sections)
    assert folds_of(TrialConfig.model_validate(given)) == expected


def test_rtp_of_one_image_a_class_decodes_many():
    sections = {"data": {"name": "cifar10"}, "distill": {"backbone": "rtp", "ipc": 1}}
    assert folds_of(TrialConfig.model_validate(trial("ts_cv", **sections))) == 5


@pytest.mark.parametrize(
    ("backbone", "method", "bounds"),
    [("dsa", "mts", (1.0, 20.0)), ("full", "mts", (0.05, 20.0)), ("full", "ts_train", (1.0, 20.0))],
)
def test_masked_val_of_full_data_is_fitted_within_the_bounds_of_images_not_trained_on(backbone, method, bounds):
    given = {"distill": {"backbone": backbone}, "calibrate": {"method": method}}
    found = resolve(TrialConfig.model_validate(given)).calibrate
    assert (found.t_min, found.t_max) == bounds
    given["calibrate"]["t_max"] = 9.0
    assert resolve(TrialConfig.model_validate(given)).calibrate.bounds == (bounds[0], 9.0)


def rtp(bases, **sections):
    data = {"name": "cifar10", "zca": False}
    return TrialConfig.model_validate(
        {"data": data, "distill": {"backbone": "rtp", "ipc": 1, "rtp": {"bases": bases}}, **sections}
    )


def test_what_bases_decode_is_left_to_the_stage_and_without_them_counts_as_stored():
    """Of CIFAR-10, 16 bases hold 115 images a class in the storage of one."""
    held = {"train": {"holdout": 0.1}, "calibrate": {"method": "ts_holdout"}}
    assert rtp(16, **held).train.holdout == 0.1
    with pytest.raises(ValidationError, match=r"train\.holdout 0\.1 leaves no image to train on at distill\.ipc 1"):
        rtp(0, **held)
    assert rtp(16, calibrate={"method": "ts_cv"}).calibrate.folds == 5
    with pytest.raises(ValidationError, match=r"but distill\.ipc is 1: .* at least 2"):
        rtp(0, calibrate={"method": "ts_cv"})
    assert image_words(resolve(rtp(16, **held))) == "what 1 stored images a class hold, 10 % of them held out"
    assert image_words(resolve(rtp(0))) == "1 images a class"
