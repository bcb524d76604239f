"""A user's own calibrator, network and data from ``validate`` to ``replay``: those that the guide shows."""

import json
import shutil
import sys

import pytest
import yaml
from own_packages import forget
from test_cli_export_replay import ddcal

from ddcal.config import TrialConfig
from ddcal.config.base import RECORDED
from ddcal.data import DataError, load_dataset
from ddcal.study import load_study

CALIBRATOR, NETWORK, DATA = "my_lab.calibrations:BIAS", "my_lab.wide:WIDE", "my_lab.data:stripes"
OWN = {"data.name": DATA, "network.name": NETWORK, "network.width": None}


@pytest.fixture
def study(components, write_study):
    space = {"calibrate.method": {"choice": [CALIBRATOR, "mts"]}}
    enqueue = [{"calibrate.method": CALIBRATOR}, {"calibrate.method": "mts"}]
    return write_study(OWN, space=space, search={"searcher": "random", "trials": 2, "enqueue": enqueue})


@pytest.mark.slow
def test_all_three_go_from_validate_to_replay(study, components, tmp_path):
    assert ddcal("validate", study, "--data").exit_code == 0
    planned = ddcal("plan", study, "--probe")
    assert planned.exit_code == 0 and DATA in planned.output, planned.output
    ran = ddcal("run", study, "--debug", "--output", tmp_path / "runs")
    assert ran.exit_code == 0, ran.output
    results = load_study(tmp_path / "runs" / "tiny")
    own = next(trial for trial in results.records if trial.values["calibrate.method"] == CALIBRATOR)
    assert own.metrics["test/accuracy"] > 0.6  # three classes of stripes

    folder = tmp_path / "export"
    assert ddcal("export", results.directory, "--trial", own.trial_key, "--to", folder).exit_code == 0
    told = yaml.safe_load((folder / "run.yaml").read_text())["components"]
    assert {setting: one["path"] for setting, one in told.items()} == {
        "calibrate.method": CALIBRATOR,
        "data.name": DATA,
        **dict.fromkeys(("network.name",), NETWORK),
        **{name: NETWORK for name in ("distill.network.name", "train.network.name") if name in told},
    }
    assert json.loads((folder / "networks/calibrators/0/calibrator.json").read_text())["name"] == "bias"
    refused = ddcal("replay", folder)
    assert refused.exit_code == 2 and f"{DATA!r}, a function that is called" in " ".join(refused.output.split())
    replayed = ddcal("replay", folder, "--trust-code")
    assert replayed.exit_code == 0 and "equal" in replayed.output, replayed.output

    for module, setting in (("bias.py", "calibrate.method"), ("layers.py", "network.name")):
        text = (components / module).read_text()
        (components / module).write_text(text + "# another version\n")
        forget()
        changed = ddcal("replay", folder)
        assert changed.exit_code == 2 and "its source has changed since the run" in changed.output
        assert f"config.{setting} is" in changed.output and "my_lab" not in sys.modules
        (components / module).write_text(text)
    text = (components / "data.py").read_text()
    (components / "data.py").write_text(text.replace("60", "61"))
    forget()
    other = ddcal("replay", folder, "--trust-code")
    assert other.exit_code == 2 and "data_fingerprint" in other.output

    shutil.rmtree(components)
    forget()
    missing = ddcal("replay", folder)
    assert missing.exit_code == 2 and "there is no my_lab.data here" in missing.output
    for verb in ("status", "pareto", "compare"):
        assert ddcal(verb, results.directory).exit_code == 0, verb


@pytest.mark.slow
def test_an_edit_computes_what_it_touches_alone(study, components, tmp_path):
    assert ddcal("run", study, "--debug", "--output", tmp_path / "runs").exit_code == 0
    before = {trial.values["calibrate.method"]: trial.keys for trial in load_study(tmp_path / "runs" / "tiny").records}
    (components / "bias.py").write_text((components / "bias.py").read_text() + "# another version\n")
    forget()
    again = ddcal("run", study, "--debug", "--output", tmp_path / "runs", "--set", "name=again")
    assert again.exit_code == 0, again.output
    after = {trial.values["calibrate.method"]: trial.keys for trial in load_study(tmp_path / "runs" / "again").records}
    assert after["mts"] == before["mts"]
    same = {stage for stage, key in after[CALIBRATOR].items() if before[CALIBRATOR][stage] == key}
    assert same == {"distill", "train"}


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"calibrate.method": "my_lab.wide:WIDE"}, "is no calibrator: it is of type Architecture"),
        ({"calibrate.method": "mtss"}, "'mtss' is no calibrator: it must be one of none, ts_train"),
        ({"network.name": "my_lab.calibrations:BIAS"}, "is no network: it is of type Calibration"),
        ({"network.name": NETWORK, "network.norm": "batch"}, f"norm is 'batch', but {NETWORK} has no norm"),
        ({"data.name": "my_lab.nothing:here"}, "there is no my_lab.nothing here: install the package of this dataset"),
        ({"data.name": "cifar11"}, "'cifar11' is no dataset: it must be one of digits, mnist"),
    ],
)
def test_what_cannot_be_is_said(components, write_study, base, said):
    wrong = ddcal("validate", write_study(base))
    assert wrong.exit_code == 2 and said in " ".join(wrong.output.split()), wrong.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 3", "returned a int; it must return a mapping of x_train, y_train, x_test, y_test"),
        ("return {'x_train': 1}", "y_train, x_test, y_test missing"),
        ("1 / 0", "the function raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_gives_no_arrays_is_said(own_package, write_study, body, said):
    own_package({"data.py": f"def stripes(root):\n    {body}\n"})
    wrong = ddcal("validate", write_study({"data.name": DATA}), "--data")
    assert wrong.exit_code == 2 and said in " ".join(wrong.output.split()), wrong.output


def test_nothing_of_python_itself_is_called_for_data(write_study, tmp_path):
    """Whoever sends a study names what is called; the simplest thing to do harm with is there on every machine."""
    mark = tmp_path / "mark"
    wrong = ddcal("validate", write_study({"data.name": "os:system", "data.root": f"touch {mark}"}), "--data")
    assert wrong.exit_code == 2 and "'os:system' is of Python itself" in " ".join(wrong.output.split()), wrong.output
    assert not mark.exists()


def test_data_of_ones_own_is_like_any_other(components):
    config = TrialConfig.model_validate({"data": {"name": DATA}}).data
    dataset = load_dataset(config)
    assert (dataset.num_classes, dataset.channels, dataset.image_size) == (3, 1, 8)
    assert dataset.class_names == ("a", "b", "c")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (270, 30, 90)
    assert load_dataset(config).fingerprint == dataset.fingerprint
    (components / "data.py").write_text("")
    forget()
    with pytest.raises(DataError, match=r"my_lab\.data has no stripes"):
        load_dataset(config)


def test_what_was_recorded_is_read_without_its_packages():
    values = {"calibrate": {"method": "gone:X"}, "data": {"name": "gone:y"}, "network": {"name": "gone:Z", "width": 3}}
    read = TrialConfig.model_validate(values, context={RECORDED: True})
    assert (read.calibrate.method, read.data.name, read.network.name) == ("gone:X", "gone:y", "gone:Z")
