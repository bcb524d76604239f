"""The command line as a process: its help answers at once, and the ui verb becomes a real server."""

import os
import socket
import subprocess
import sys

import pytest
from servers import MOST_SECONDS, wait_for_server

from ddcal.study import run_study

VERBS = ["validate", "run", "export", "replay", "ui"]
HEAVY = ["torch", "ray", "mlflow", "optuna", "pandas", "sklearn", "matplotlib"]

SCRIPT = f"""
import sys
from ddcal.cli import app
try:
    app(sys.argv[1:], prog_name="ddcal")
except SystemExit as end:
    code = end.code
heavy = [name for name in {HEAVY} if name in sys.modules]
print("HEAVY", *heavy, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_answers_at_once(arguments):
    result = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "HEAVY\n" in result.stderr
    if arguments == ["--help"]:
        assert all(verb in result.stdout for verb in VERBS)
    elif arguments != ["--version"]:
        assert "Usage: ddcal " in result.stdout


@pytest.fixture(scope="module")
def finished(tiny_study, tmp_path_factory):
    """The folder of a finished study."""
    return run_study(tiny_study(), output=tmp_path_factory.mktemp("runs"), debug=True).directory


@pytest.mark.parametrize(
    ("arguments", "code", "heavy"),
    [
        (["status"], 0, set()),
        (["compare"], 0, set()),
        (["verify"], 0, {"optuna"}),
        (["pareto"], 0, {"matplotlib"}),
        (["export", "--to", "best", "--trial", "tiny-0009"], 2, set()),
        (["replay"], 2, set()),
        (["confirm", "mlruns"], 2, set()),
        (["report", "study", "mlruns"], 2, set()),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_looking_at_a_study_imports_what_it_needs(finished, tmp_path, arguments, code, heavy):
    """Torch takes two seconds: no verb imports it that needs no tensor, nor one that is given a wrong folder."""
    if "mlruns" not in arguments:
        arguments = [*arguments, str(finished)] + ([str(finished)] if arguments == ["compare"] else [])
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert set(result.stderr.partition("HEAVY")[2].split()) == heavy


@pytest.mark.parametrize("arguments", [["unknown"], ["run"], ["export", "a"], ["replay"], ["run", "a", "--nonsense"]])
def test_a_wrong_command_line_is_bad_input(arguments):
    result = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=600)
    assert result.returncode == 2 and "Traceback" not in result.stderr


def test_the_ui_is_mlflow_on_the_loopback_interface(tiny_study, tmp_path):
    results = run_study(tiny_study(search={"trials": 1}, tracking={}), output=tmp_path, debug=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from ddcal.cli import main; main()", "ui", str(results.directory)]
    with (tmp_path / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=log, cwd=tmp_path, env=os.environ
        )
    try:
        wait_for_server(f"http://127.0.0.1:{port}", process, tmp_path / "ui.log")
    finally:
        process.terminate()
        process.wait(MOST_SECONDS)
    link = f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=ddcal"
    assert f"{link}  experiment tiny" in (tmp_path / "ui.log").read_text()
