"""What a person sees while a study runs: a display on a terminal that nothing tears, plain lines elsewhere."""

import io
import re
import shlex
import subprocess
import sys
import time

import pytest
from rich.console import Console
from terminals import run_in_terminal, screen

from ddcal.cli.progress import StudyProgress
from ddcal.study import load_study, run_study
from ddcal.study.run.runner import Start

DDCAL = ["-c", "from ddcal.cli import main; main()"]
SLOWER = {"train.epochs": 200}

SCRIPT = """
import os, sys, time, warnings
from rich.console import Console
from rich.text import Text
from ddcal.cli.display import Display, can_display

def until(condition):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def drawn():
    before = len(draws)
    until(lambda: len(draws) > before + 1)

draws = []
def draw(width, height):
    draws.append((width, height))
    return Text(f"drawing {len(draws)}\\nsecond line\\nthird line")

console = Console(markup=False, highlight=False, emoji=False)
assert can_display(console)
print("before")
display = Display(console, draw)
drawn()
print("from Python")
os.write(2, b"from a library\\n")
warnings.warn("from warnings", stacklevel=1)
drawn()
display.print("of the study")
os.write(1, b"half a line")
drawn()
os.write(1, b"\\n" + b"long " * 50 + b"\\n")
os.write(2, "ümläut\\n".encode())
drawn()
print("at the end", end="")
WHAT
display.stop()
display.stop()
assert os.isatty(1) and os.isatty(2) and draws[0] == (80, 24)
print("after")
"""


def test_nothing_tears_the_display():
    written, code = run_in_terminal(["-c", SCRIPT.replace("WHAT", "")])
    lines = screen(written)
    assert code == 0, written
    assert re.search(r"drawing \d", written) and written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    shown = [line for line in lines if line]
    assert not [line for line in shown if "drawing" in line or line in ("second line", "third line")]
    assert shown[:2] == ["before", "from Python"] and shown[-2:] == ["at the end", "after"], shown
    long = "".join(shown[shown.index("half a line") + 1 : shown.index("ümläut")])
    assert long.replace(" ", "") == "long" * 50
    assert any(line.endswith("UserWarning: from warnings") for line in shown)
    assert shown.index("from a library") < shown.index("of the study") < shown.index("half a line")


def test_a_debugger_has_the_terminal_to_itself():
    hook = "sys.breakpointhook = lambda: print('debugger', os.isatty(1))"
    script = SCRIPT.replace("draws = []", f"{hook}\ndraws = []").replace("WHAT", "print(); breakpoint()")
    written, code = run_in_terminal(["-c", script])
    assert code == 0 and "debugger True" in screen(written), written


@pytest.mark.slow
def test_a_run_on_a_terminal_ends_as_one_in_a_pipe(write_study, tmp_path):
    file = write_study(SLOWER, search={"trials": 2})
    written, code = run_in_terminal([*DDCAL, "run", file, "--debug", "--output", tmp_path / "runs"], columns=160)
    assert code == 0, written
    for said in ("of 2 trials finished", "running", "train ", "in use", "1 CPU", "(decides)"):
        assert said in written, said
    left = [line for line in screen(written, 160) if line]
    again = subprocess.run(
        [sys.executable, *DDCAL, "resume", tmp_path / "runs" / "tiny"], capture_output=True, text=True, timeout=600
    )
    assert left[0].startswith("study tiny: 2 trials; debug mode: one trial at a time in this process on cpu")
    assert [line[:24] for line in left[1:3]] == ["1/2  tiny-0000  complete", "2/2  tiny-0001  complete"]
    summary = again.stdout[again.stdout.index("winner:") :].splitlines()
    assert summary[0] in left, left
    assert left[left.index(summary[0]) :] == [line.rstrip() for line in summary if line]


@pytest.mark.slow
def test_ctrl_c_leaves_a_whole_screen(write_study, tmp_path):
    file = write_study({"train.epochs": 20_000}, search={"trials": 2})
    arguments = [*DDCAL, "run", file, "--debug", "--output", tmp_path / "runs"]
    written, code = run_in_terminal(arguments, when={r"train \d+ %": "\x03"})
    assert code == 130 and "Traceback" not in written
    left = [line for line in screen(written) if line and "^C" not in line]
    folder = tmp_path / "runs" / "tiny"
    command = "".join(left[left.index("go on with:") + 1 : -1])
    assert command.strip() == f"ddcal resume {folder} --debug" and left[-1] == "interrupted"
    assert "stopped: 0 of 2 trials are finished, the others keep their state" in left
    assert not [line for line in left if "in use" in line or "stopping" in line], left
    assert load_study(folder).interrupted


def test_elsewhere_there_are_lines_now_and_then(tiny_study, tmp_path):
    stream = io.StringIO()

    def wait(advance):
        deadline = time.monotonic() + 600
        while "of 2 trials finished" not in stream.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with StudyProgress(Console(file=stream, width=200), line_seconds=0.05) as progress:
        from dataclasses import replace

        run_study(tiny_study(), output=tmp_path, debug=True, hooks=replace(progress.hooks, on_advance=wait))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("study tiny: 2 trials; debug mode")
    assert any(line.startswith("tiny: 0 of 2 trials finished, 1 running; running: tiny-0000 ") for line in lines)
    assert sum(line.startswith(("1/2  tiny-0000  complete", "2/2  tiny-0001  complete")) for line in lines) == 2
    assert "\x1b" not in stream.getvalue()


def test_the_command_that_goes_on_has_what_the_study_was_run_with(tiny_study, tmp_path):
    console, folder = Console(file=io.StringIO(), width=200), tmp_path / "my runs" / "tiny"
    with pytest.raises(KeyboardInterrupt), StudyProgress(console, address="10.0.0.7:6379", debug=True) as progress:
        progress.on_start(Start(tiny_study(), folder, 0, "starting"))
        raise KeyboardInterrupt
    command = console.file.getvalue().splitlines()[-1]
    assert shlex.split(command) == ["ddcal", "resume", str(folder), "--address", "10.0.0.7:6379", "--debug"]


@pytest.mark.slow
def test_where_lines_cannot_be_redrawn_there_is_no_display(write_study, tmp_path):
    arguments = [*DDCAL, "run", write_study(search={"trials": 1}), "--debug", "--output", tmp_path / "runs"]
    written, code = run_in_terminal(arguments, environment={"TERM": "dumb"})
    assert code == 0 and "\x1b[" not in written and "1/1  tiny-0000  complete" in written
