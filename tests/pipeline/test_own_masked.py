"""Calibrations of a user's own on masked images, through whole trials."""

import math
import re

import numpy as np
import pytest
from own_packages import code_of

from ddcal.calibration import fit_masked
from ddcal.config.components import ComponentError
from ddcal.config.resolved import resolve
from ddcal.data.shapes import DatasetShape
from ddcal.pipeline import TrialRunner, open_store
from ddcal.pipeline import measuring as probing
from ddcal.pipeline.compute.calibrate import found_calibrators
from ddcal.pipeline.compute.masked import masked_images
from ddcal.pipeline.footprint import CALIBRATOR_BYTES, calibrator_bytes
from ddcal.pipeline.measuring import measure

MINE = """
from ddcal.config.calibrations import Calibration

BIAS = dict(sees="masked", bounds=None, calibrator="my_lab.bias:BiasCorrection", keeps_accuracy=False)
SET = Calibration("bias on masked images", numbers=lambda classes, images: images, **BIAS)
FOUND = Calibration("bias on masked images, ratio from distilled images", finds_ratio=True, **BIAS)
ALONE = Calibration("TS on masked images", sees="masked", bounds=(0.5, 9.0))
"""
BASE = {"distill__backbone": "real", "distill__ipc": 3, "calibrate__draws": 2, "train__epochs": 9, "train__lr": 0.1}


@pytest.fixture
def lab(own_package):
    return own_package({"masked.py": MINE, "bias.py": code_of("own-components.md")[1]})


@pytest.fixture
def finish(lab, tmp_path, make_trial, environment, datasets):
    def run(name, last="calibrate", **changes):
        config = make_trial(**{**BASE, "calibrate__method": f"my_lab.masked:{name}", **changes})
        runner = TrialRunner(config, open_store(tmp_path), environment, datasets=datasets)
        while last not in runner.entries:
            runner.advance()
        runner.close()
        return runner

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("SET", {}), ("FOUND", {}), ("SET", {"distill__backbone": "full", "train__batch_size": 64, "train__epochs": 1})],
)
def test_a_calibrator_is_fitted_on_the_logits_of_all_draws(name, changes, finish):
    runner = finish(name, **changes)
    values, fitted = found_calibrators(runner.place)
    assert ("mask_ratio" in values) == (name == "FOUND") and len(fitted) == 2
    logits, labels = masked_images(runner.place).logits(values.get("mask_ratio", 0.9), 2)
    for network, found in enumerate(fitted):
        expected = type(found)().fit(logits[network].flatten(0, 1), labels.repeat(logits.shape[1]))
        assert found.name == "bias" and np.array_equal(found.shift, expected.shift)


def test_its_probabilities_are_scored(finish):
    metrics = finish("FOUND", last="evaluate").entries["evaluate"].meta["values"]["metrics"]
    assert all(math.isfinite(metrics[f"{split}/ece"]) for split in ("val", "test")) and "temperature" not in metrics
    assert 0.0 <= metrics["mask_ratio"] < 1.0


def test_one_temperature_needs_no_calibrator(finish):
    runner = finish("ALONE", last="evaluate")
    _, fitted = found_calibrators(runner.place)
    logits, labels = masked_images(runner.place).logits(0.9, 2)
    expected = [fit_masked(of_network, labels, (0.5, 9.0)).temperature for of_network in logits]
    assert [one.temperature for one in fitted] == expected
    assert runner.entries["evaluate"].meta["values"]["metrics"]["temperature"] == pytest.approx(np.mean(expected))


def test_it_is_measured_and_sized(lab, make_trial, datasets, environment, monkeypatch):
    monkeypatch.setattr(probing, "seconds_of", lambda call, *_: [call(), 0.5][1])
    trial = resolve(make_trial(**BASE, calibrate__method="my_lab.masked:SET"))
    assert measure(trial, "calibrate", datasets.get(trial.data), environment).step == 0.5
    shape = DatasetShape(classes=10, channels=1, size=8, train=100, val=7, test=9)
    assert calibrator_bytes(trial, shape) == 8 * 2 * 30 + CALIBRATOR_BYTES


def test_soft_labels_are_refused(lab, make_trial):
    labels = {"source": "experts", "epoch": 2}
    with pytest.raises(ValueError, match=r"'my_lab\.masked:SET', which is fitted on classes"):
        make_trial(**BASE, calibrate__method="my_lab.masked:SET", labels=labels)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("sees='vals'", "sees is 'vals'; it must be one of val, train, held, folds, masked, nothing"),
        ("sees='nothing', calibrator='a:B'", "sees is 'nothing', on which a:B cannot be fitted"),
        ("sees='val', finds_ratio=True", "finds_ratio is of a mask, but sees is 'val'"),
    ],
)
def test_what_cannot_be_is_said_with_its_name(settings, said, own_package, make_trial):
    own_package(
        {"wrong.py": f"from ddcal.config.calibrations import Calibration\nONE = Calibration('one', {settings})\n"}
    )
    with pytest.raises((ComponentError, ValueError), match=f"my_lab.wrong:ONE.*{said}"):
        make_trial(**BASE, calibrate__method="my_lab.wrong:ONE")


def test_an_edit_after_a_trial_began_changes_nothing_of_it(own_package, tmp_path, make_trial, environment, datasets):
    """Its key says which source computes it, and that was hashed as the trial began."""
    spec, correction = code_of("own-components.md")[:2]
    folder = own_package({"calibrations.py": spec, "bias.py": correction})
    config = make_trial(**BASE, calibrate__method="my_lab.calibrations:BIAS")
    runner = TrialRunner(config, open_store(tmp_path / "store"), environment, datasets=datasets)
    while "train" not in runner.entries:
        runner.advance()
    (folder / "bias.py").write_text(correction.replace('"largest_shift": ', '"largest_shift": 7.0 + '))
    runner.run()
    found = (runner.entries["calibrate"].folder / "calibration.json").read_text()
    shifts = [float(value) for value in re.findall(r'"largest_shift": ([\d.]+)', found)]
    assert shifts and all(shift < 7.0 for shift in shifts), found


def test_a_component_that_cannot_be_imported_is_said_before_anything_is_computed(
    own_package, make_trial, environment, datasets, tmp_path
):
    own_package({"calibrations.py": code_of("own-components.md")[0], "bias.py": "import not_installed"})
    config = make_trial(**BASE, calibrate__method="my_lab.calibrations:BIAS")
    with pytest.raises(ComponentError, match=r"my_lab\.bias cannot be imported .*not_installed"):
        TrialRunner(config, open_store(tmp_path / "store"), environment, datasets=datasets)
