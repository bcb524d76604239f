"""Shares of a GPU on a real Ray whose GPU is only a number, in a process of its own (gpu_studies.py)."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    script = Path(__file__).parents[2] / "gpu_studies.py"
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def found(root):
    return json.loads((root / "found.json").read_text())


def runs_of(root, name):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return {run.data.tags.get("ddcal.trial_key"): run.info.status for run in runs}, len(runs)


def test_a_trial_gets_one_more_attempt_with_more_memory(found, root):
    grown, too_large, small = found["grow"]["trials"]
    assert grown[:3] == ["complete", 2, 0.3333] and grown[4] == 1.0
    assert (
        too_large[:3] == ["out_of_memory", 2, 0.3333]
        and "at 0.3333 (stage train; the trial had 1/3 of a GPU" in too_large[3]
    )
    assert small[:3] == ["complete", 1, 0.25]
    statuses, count = runs_of(root, "grow")
    assert count == 4 and statuses == {
        None: "FINISHED", "grow-0000": "FINISHED", "grow-0001": "FAILED", "grow-0002": "FINISHED",
    }  # fmt: skip


def test_by_default_it_is_recorded(found, root):
    ((outcome, attempt, gpu, error, progress),) = found["record"]["trials"]
    assert (outcome, attempt, gpu) == ("out_of_memory", 1, 0.25) and 0.0 < progress <= 0.5
    assert "on_oom: grow" in error
    assert runs_of(root, "record") == ({None: "FINISHED", "record-0000": "FAILED"}, 2)


def test_the_first_trial_measures_and_the_others_are_packed(found):
    assert [trial[:3] for trial in found["auto"]["trials"]] == [
        ["complete", 1, 1.0], ["complete", 1, 0.5], ["complete", 1, 1.0],
    ]  # fmt: skip
    table = found["auto"]["summary"]["packing"]
    assert {(row["stage"], row["peak_mib"], row["fraction"]) for row in table if row["group"]["distill.ipc"] == 3} == {
        ("distill", 300, "1/2"), ("train", 100, "1/6"), ("calibrate", 10, "1/8"),
    }  # fmt: skip


def test_a_driver_without_a_gpu_asks_a_node_that_has_one(found):
    assert found["kind"] == "cuda"  # what a worker says where torch sees none either; the driver itself says nothing


def test_a_process_in_which_no_trial_begins_is_replaced(found):
    """All later trials of the process had failed within milliseconds."""
    assert [trial[0] for trial in found["broken"]["trials"]] == ["failed", "complete", "complete"]


def test_where_it_may_not_be_tried_again_the_study_stops_and_goes_on(found):
    assert found["unfinished"][0] == "failed" and {*found["unfinished"][1:]} == {None}
    assert "stopped-0001 cannot begin: MemoryError: no memory in this process (on " in found["stop"]
    assert "(1 of 3 trials are finished, the others go on later)" in found["stop"]
    assert [trial[0] for trial in found["stopped"]["trials"]] == ["failed", "complete", "complete"]
