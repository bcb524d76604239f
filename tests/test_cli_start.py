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
        (["resume"], 0, set()),
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
    assert f"{link}\nexperiment tiny, MLflow on" in (tmp_path / "ui.log").read_text(), "the address alone on its line"


@pytest.mark.parametrize("arguments", [[], ["run"], ["store", "ls"]], ids=" ".join)
def test_every_verb_has_a_short_help_and_python_m_is_the_command(arguments):
    command = [sys.executable, "-m", "ddcal", *arguments]
    short, long = (subprocess.run([*command, option], capture_output=True, text=True) for option in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert " ".join(["Usage: python -m ddcal", *arguments, ""]) in short.stdout and "-h, --help" in short.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ddcal va", ["validate"]),
        ("ddcal run quick", ["quickstart"]),
        ("ddcal run my", ["my.yaml", "my_folder/"]),
        ("ddcal validate my_folder/", ["my_folder/its.yaml"]),
        ("ddcal status ", ["runs/tiny"]),
        ("ddcal resume my", ["my_folder/"]),
        ("ddcal run x --set base.distill.ip", ["base.distill.ipc="]),
        ("ddcal plan x --set search.tr", ["search.trials="]),
    ],
)
def test_the_shell_completes(tmp_path, line, offered):
    (tmp_path / "my_folder").mkdir()
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    for name in ("my.yaml", "my.txt", "my_folder/its.yaml", "runs/tiny/ledger.jsonl"):
        (tmp_path / name).touch()
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_DDCAL_COMPLETE": "complete_bash"}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | words)
    assert result.stdout.split() == offered, result.stderr
    assert "HEAVY\n" in result.stderr


def test_installing_completion_says_where_it_went(tmp_path):
    bash = {"HOME": str(tmp_path), "SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-c", SCRIPT, "--install-completion", "bash"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | bash)
    assert result.returncode == 0, result.stderr
    script = tmp_path / ".bash_completions" / "ddcal.sh"
    assert str(script) in result.stdout and "ddcal" in script.read_text()
