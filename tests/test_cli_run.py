"""``ddcal run``: what it refuses before anything is written, and what it prints and leaves when it runs."""

import os
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.study import load_study


def ddcal(*arguments):
    """Run a verb in this process; whatever happens, nobody sees a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(write_study, tmp_path):
    """refused([arguments], *words): the run ends with exit code 2, says the words, and writes nothing."""

    def check(arguments, *words, output="runs", **study):
        file = write_study(**study)
        target = [] if output is None else ["--output", tmp_path / output]
        before = snapshot(tmp_path)
        result = ddcal("run", file, *target, *arguments)
        assert result.exit_code == 2
        for word in words:
            assert word.format(tmp=tmp_path) in result.output, result.output
        assert snapshot(tmp_path) == before

    return check


MODES = pytest.mark.parametrize("mode", [["--debug"], []], ids=["debug", "ray"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("search.trials=0", ["search.trials", "must be at least 1"]),
        ("base.train.eppochs=3", ["base.train.eppochs", "epochs"]),
        ("objectives={test/ece: min}", ["test/ece", "val/ece"]),
        ("space.calibrate.mask.ratio.uniform=[0.0, 2.0]", ["space.calibrate.mask.ratio"]),
        ("nonsense", ["nonsense"]),
        ("=1", ["--set =1"]),
        ("name=../elsewhere", ["name"]),
    ],
)
def test_a_bad_override_is_named(refused, argument, words):
    refused(["--set", argument, "--debug"], *words)


def test_a_study_file_that_is_none_is_named(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        result = ddcal("run", path, "--output", tmp_path / "runs")
        assert result.exit_code == 2 and str(path) in result.output
    assert not (tmp_path / "runs").exists()


@MODES
def test_a_gpu_that_is_not_there_is_refused(refused, request, mode):
    import torch

    if not mode:
        request.getfixturevalue("ray_session")
    elif torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused([*mode, "--set", "resources.gpu=0.25"], "resources.gpu", "0.25", "set it to 0")
    refused([*mode, "--set", "resources.gpu=auto"], "resources.gpu", "auto", "set it to 0")


def test_more_cpus_than_there_are_are_refused(refused, ray_session):
    refused(["--set", "resources.cpu=1000"], "resources.cpu", "1000", "2 CPUs")
    refused(["--set", "resources={cpu: 1000, gpu: 1}"], "resources.cpu", "resources.gpu")


@MODES
@pytest.mark.parametrize("key", ["storage.output", "storage.store"])
def test_a_relative_folder_in_a_ray_job_is_refused(refused, monkeypatch, tmp_path, mode, key):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    output = None if key == "storage.output" else "runs"
    refused([*mode, "--set", f"{key}=somewhere"], key, "relative", "somewhere", output=output)


@MODES
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "cifar10", "root": "{tmp}/data"}, ["{tmp}/data"]),
        ({"name": "fashion-mnist", "root": "{tmp}/data"}, ["{tmp}/data"]),
        ({"name": "npz", "root": "{tmp}/data/x.npz"}, ["{tmp}/data/x.npz"]),
    ],
    ids=["cifar10", "fashion-mnist", "npz"],
)
def test_missing_data_is_refused(refused, tmp_path, mode, data, words):
    (tmp_path / "data").mkdir()
    named = {f"data.{key}": value.format(tmp=tmp_path) for key, value in data.items()}
    refused(mode, *words, base=named)


@MODES
def test_missing_data_of_a_choice_is_refused_before_the_first_trial(refused, tmp_path, mode):
    space = {"data.name": {"choice": ["digits", "cifar10"]}}
    (tmp_path / "data").mkdir()
    refused(mode, "cifar10", base={"data.root": str(tmp_path / "data")}, space=space)


@MODES
@pytest.mark.parametrize("below", ["", "/below/it"])
@pytest.mark.parametrize("key", ["storage.output", "storage.store"])
def test_a_file_where_a_folder_should_be_is_refused(refused, tmp_path, mode, below, key):
    (tmp_path / "file").write_text("mine")
    place = f"{tmp_path}/file{below}"
    arguments = ["--output", place] if key == "storage.output" else ["--set", f"storage.store={place}"]
    output = None if key == "storage.output" else "runs"
    refused([*mode, *arguments], key, "{tmp}/file", output=output)


@MODES
@pytest.mark.parametrize("key", ["storage.output", "storage.store"])
def test_a_folder_without_permission_is_refused(refused, tmp_path, monkeypatch, mode, key):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)  # tests may run as root, who may write there all the same
    monkeypatch.setattr(os, "access", lambda path, mode, ask=os.access: path != closed and ask(path, mode))
    output = None if key == "storage.output" else "runs"
    refused([*mode, "--set", f"{key}={closed}/a"], key, "permission", "{tmp}/closed", output=output)


@MODES
def test_a_study_that_is_there_already_is_refused(refused, tmp_path, mode):
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "ledger.jsonl").write_text("")
    refused(mode, "{tmp}/runs/tiny exists and is not a study", "--output")


def test_a_file_of_the_study_s_name_is_refused(refused, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").write_text("mine")
    refused(["--debug"], "{tmp}/runs/tiny exists")


@pytest.fixture
def without_ray(monkeypatch, tmp_path_factory):
    """As in a process of its own that no Ray runs in, and with an empty HOME."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)


@pytest.mark.parametrize(
    "settings", [["name=Store"], ["storage.store={tmp}/runs/tiny"], ["tracking.uri=sqlite:///{tmp}/runs/tiny"]]
)
def test_a_study_in_the_place_of_something_else_is_refused(refused, tmp_path, settings):
    """Its ledger would lie among the artefacts, and MLflow's database could not be made."""
    overrides = [word for one in settings for word in ("--set", one.format(tmp=tmp_path))]
    refused([*overrides, "--debug"], "name", "cannot be called", "take another")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_refused(refused, without_ray, monkeypatch, address):
    refused(["--address", address], f"--address {address}", "no Ray cluster")
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused([], f"--address {address}", "no Ray cluster")


def test_a_cluster_whose_token_is_missing_is_refused(write_study, tmp_path):
    """In a process of its own: Ray reads the token once."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = ["run", str(write_study()), "--output", str(tmp_path / "runs"), "--address", address]
        result = subprocess.run(
            [sys.executable, "-c", "from ddcal.cli import main; main()", *command],
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert f"--address {address}" in result.stderr and "token" in result.stderr
    assert not (tmp_path / "runs").exists()


# Runs


@MODES
def test_a_study_runs_and_says_what_comes_next(write_study, tmp_path, request, mode):
    if not mode:
        request.getfixturevalue("ray_session")
    result = ddcal(
        "run", write_study(), "--output", tmp_path / "runs", *mode, "--trials", "2", "--set", "search.seed=7"
    )
    assert result.exit_code == 0
    directory = tmp_path / "runs" / "tiny"
    for said in ("1/2  tiny-0000  complete", "2/2  tiny-0001  complete", "(cached: distill, train)", "2 complete"):
        assert said in result.output
    for said in ("winner: tiny-000", "ts_val", "ECE noise floor", f"ddcal export {directory}"):
        assert said in result.output
    assert "MLflow" not in result.output  # tracking.uri is none
    assert ("debug mode" if mode else "Ray: 1 node, 2 CPUs, 0 GPUs") in result.output
    assert "seed: 7" in (directory / "study.yaml").read_text()
    assert {"trials.csv", "pareto.csv", "summary.json"} <= {path.name for path in directory.iterdir()}


def test_a_scheduler_is_off_in_debug_mode_and_a_taken_port_is_refused(write_study, tmp_path):
    file = write_study(scheduler={"name": "asha", "metric": "val/ece"}, search={"trials": 1}, tracking={})
    result = ddcal("run", file, "--output", tmp_path / "runs", "--debug")
    assert result.exit_code == 0 and "scheduler asha is off" in result.output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = ddcal("ui", tmp_path / "runs" / "tiny", "--port", port)
    assert result.exit_code == 2 and f"--port: {port} cannot be used" in result.output


def test_a_study_without_a_feasible_trial_says_so(write_study, tmp_path):
    file = write_study(constraints={"val/accuracy": ">= 0.999"}, search={"trials": 1})
    result = ddcal("run", file, "--output", tmp_path / "runs", "--debug")
    assert result.exit_code == 0 and "no trial is feasible" in result.output and "1 infeasible" in result.output
    assert "violates val/accuracy >= 0.999" in result.output and "ddcal export" not in result.output


def test_a_study_whose_every_trial_fails_has_failed(write_study, tmp_path):
    search = {"trials": 1, "enqueue": [{"distill.ipc": 500}]}  # which validate warns of
    file = write_study(space={"distill.ipc": {"choice": [1, 500]}}, search=search)
    result = ddcal("run", file, "--output", tmp_path / "runs", "--debug")
    assert result.exit_code == 1 and "1 failed" in result.output and "500" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracking", "said"), [({"uri": "none"}, "tracking.uri: none"), ({"uri": "http://127.0.0.1:1"}, "open http://127")]
)
def test_the_ui_of_a_study_that_is_not_here_is_refused(write_study, tmp_path, monkeypatch, tracking, said):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file = write_study(tracking=tracking, search={"trials": 1})
    assert ddcal("run", file, "--output", tmp_path / "runs", "--debug").exit_code == 0
    result = ddcal("ui", tmp_path / "runs" / "tiny")
    assert result.exit_code == 2 and said in result.output
    assert ddcal("ui", tmp_path).exit_code == 2


def test_the_seed_of_a_run_is_that_of_its_trials(write_study, tmp_path):
    assert ddcal("run", write_study(), "--debug", "--output", tmp_path, "--seed", 7, "--trials", 1).exit_code == 0
    assert {trial.config.seed for trial in load_study(tmp_path / "tiny").records} == {7}


def test_a_seed_beside_a_search_over_seeds_is_refused(refused):
    refused(["--seed", 3, "--debug"], "--seed 3", "--set space.seed=[3]", space={"seed": {"choice": [0, 1]}})
