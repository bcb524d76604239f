"""The command line as a process: its help answers at once, and the ui verb becomes a real server."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from ddcal.study import run_study

VERBS = ["validate", "run", "export", "replay", "ui"]
HEAVY = ["torch", "ray", "mlflow", "optuna", "pandas", "sklearn", "matplotlib"]

SCRIPT = f"""
import sys, time
from ddcal.cli import app
try:
    app(sys.argv[1:], prog_name="ddcal")
except SystemExit as end:
    code = end.code
heavy = [name for name in {HEAVY} if name in sys.modules]
print("HEAVY", *heavy, file=sys.stderr)
print("CPU", time.process_time(), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_answers_at_once(arguments):
    result = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "HEAVY\n" in result.stderr
    assert float(result.stderr.split("CPU")[1]) < 1.0
    if arguments == ["--help"]:
        assert all(verb in result.stdout for verb in VERBS)
    elif arguments != ["--version"]:
        assert "Usage: ddcal " in result.stdout


@pytest.mark.parametrize("arguments", [["unknown"], ["run"], ["export", "a"], ["replay"], ["run", "a", "--nonsense"]])
def test_a_wrong_command_line_is_bad_input(arguments):
    result = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=60)
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
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert answer.status == 200
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "ui.log").read_text()[-2000:]
                time.sleep(0.1)
        else:
            pytest.fail("no answer in a minute")
    finally:
        process.terminate()
        process.wait(30)
    link = f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=ddcal"
    assert f"{link}  experiment tiny" in (tmp_path / "ui.log").read_text()
