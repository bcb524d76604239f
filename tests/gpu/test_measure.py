"""The measurement of a GPU: that it runs, within its time, whatever fails, without what it does not need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measuring.sections import SECTIONS, three_figures, time_of
from measuring.tables import WIDTH, page_of, section_text, table
from measuring.task import spread

SCRIPT = Path(__file__).with_name("measure.py")
UNNEEDED = "ray mlflow optuna kornia sklearn pandas pyarrow torchvision typer rich cmaes moto"
WITHOUT = f"""
import sys

for name in {UNNEEDED!r}.split():
    sys.modules[name] = None  # as if it were not installed
sys.argv = sys.argv[1:]
sys.path[:0] = [sys.argv.pop(), {str(SCRIPT.parent)!r}]
"""
WITH_BROKEN = """
from measuring import sections
from measuring.sections import Section

broken = [Section(name, f"{name}_section", name, share, {"": str}) for name, share in
          (("failing", 1e-4), ("hanging", 1e-4), ("dying", 1e-4))]
sections.SECTIONS = tuple(broken) + tuple(one for one in sections.SECTIONS if one.name == "replay")
import measure
measure.GRACE = 0.0
sys.exit(measure.main(sys.argv[1:]))
"""
BROKEN = {
    "failing": "def measure(task):\n    yield {'name': 'a', 'note': 'kept'}\n    raise ValueError('planted')\n",
    "hanging": "import time\ndef measure(task):\n    yield {'name': 'b', 'note': 'kept'}\n    time.sleep(10**6)\n",
    "dying": "import os\ndef measure(task):\n    yield {'name': 'c', 'note': 'kept'}\n    os._exit(7)\n",
}


def measured(*arguments, folder, code=None):
    """Run it in a process; return (exit code, what it printed, its JSON or None)."""
    command = [sys.executable, str(SCRIPT)] if code is None else [sys.executable, "-c", code, str(SCRIPT)]
    command += ["--output", str(folder / "out"), *map(str, arguments), *([] if code is None else [str(folder)])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    path = folder / "out" / "measure.json"
    return done.returncode, done.stdout + done.stderr, json.loads(path.read_text()) if path.is_file() else None


@pytest.mark.slow
def test_what_breaks_ends_alone_and_nothing_imports_what_a_gpus_machine_may_lack(tmp_path):
    """Sections that raise, hang and die, then whole trials: none of it imports ray, mlflow and the like."""
    for name, text in BROKEN.items():
        (tmp_path / f"{name}_section.py").write_text(text)
    arguments = ("--device", "pretended", "--minutes", "200")
    code, printed, found = measured(*arguments, folder=tmp_path, code=WITHOUT + WITH_BROKEN)
    sections = found["sections"]
    assert code == 1, printed
    assert sections["failing"]["status"] == "failed" and sections["failing"]["error"].endswith("ValueError: planted")
    assert sections["hanging"]["status"] == "partly" and sections["hanging"]["left_out"]
    assert sections["dying"]["status"] == "failed" and "ended with 7" in sections["dying"]["error"]
    assert all(len(sections[name]["rows"]) == 1 for name in BROKEN)
    assert sections["replay"]["status"] == "done", sections["replay"]["error"]
    assert [row["right"] for row in sections["replay"]["rows"]] == [True]
    page = (tmp_path / "out" / "measure.md").read_text()
    assert "FAILED: ValueError: planted" in page and "no measurements of a GPU" in page
    assert max(map(len, page.splitlines())) <= WIDTH and page.split()[-5:] == printed.split("written")[0].split()[-5:]


def test_packages_that_are_missing_are_named(tmp_path):
    done = subprocess.run([sys.executable, "-S", str(SCRIPT)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "lacks torch, numpy, pydantic" in done.stderr
    assert "pip install torch numpy pydantic" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_runs_whole_on_the_pretended_device(tmp_path):
    code, printed, found = measured("--device", "pretended", "--minutes", "60", folder=tmp_path)
    assert code == 0, printed
    assert {name: one["status"] for name, one in found["sections"].items()} == {one.name: "done" for one in SECTIONS}
    assert all(one["rows"] for one in found["sections"].values())
    assert max(map(len, (tmp_path / "out" / "measure.md").read_text().splitlines())) <= WIDTH
    assert max(row["error"] for row in found["sections"]["correctness"]["rows"]) < 1e-5  # of warps, in another form
    assert all(section.title in printed for section in SECTIONS)


@pytest.mark.slow
def test_its_processes_may_begin_anew_as_cuda_has_it(tmp_path):
    arguments = ("--device", "pretended", "--minutes", "60", "--anew", "--sections", "replay", "packing")
    code, printed, found = measured(*arguments, folder=tmp_path)
    assert code == 0, printed
    assert [one["status"] for one in found["sections"].values()] == ["done", "done"]


@pytest.mark.slow
def test_what_there_was_no_time_for_is_said(tmp_path):
    arguments = ("--device", "pretended", "--minutes", "0.0001", "--sections", "replay", "waits")
    code, printed, found = measured(*arguments, folder=tmp_path)
    assert code == 0 and found["sections"]["waits"]["status"] == "left out"
    assert "No time for: all of it." in printed


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_nothing_is_measured(tmp_path):
    code, printed, found = measured(folder=tmp_path)
    assert code == 2 and "sees no GPU here" in printed and found is None


@pytest.mark.slow
def test_data_that_is_not_there_is_said_at_once(tmp_path):
    code, printed, found = measured("--data", tmp_path, folder=tmp_path)
    assert code == 2 and f"--data {tmp_path}" in printed and "Traceback" not in printed and found is None


# The tables


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0123, 0.0121, 0.0456], "12.3 (12.1-45.6) ms"),
        ([0.9991, 0.9, 0.9999], "999 (900-1000) ms"),
        ([1.5, 1.25, 123.4], "1.5 (1.25-123) s"),
        ([1234.5] * 3, "1234 (1234-1234) s"),
    ],
)
def test_times_have_three_figures(values, shown):
    assert time_of(spread(values)) == shown


def test_small_and_large_numbers_are_short():
    assert [three_figures(value) for value in (0.0, 1e-7, 0.05, 12.345, 123.4, 12345.6)] == [
        *("0.0e+00", "1.0e-07", "0.05", "12.3", "123", "12346"),
    ]


def test_tables_are_aligned_and_never_too_wide():
    lines = table([["", "b"], ["name", "x" * 100], ["n", "y"]])
    assert {len(line) for line in lines} == {WIDTH} and "…" in lines[2]
    assert table([["", "b"], ["name", "x"]]) == ["|      | b |", "|------|---|", "| name | x |"]


def test_long_rows_of_every_section_fit():
    """The longest that a GPU is likely to say."""
    seconds = spread([123.4, 100.1, 156.7])
    millis = spread([0.1234, 0.1112, 0.1567])
    rows = {
        "correctness": [
            {"name": "predict resnet18", "loss_error": 1e-7, "error": 1e-7, "tolerance": 1e-4, "right": True}
        ],
        "replay": [{"name": "real", "files": 10, "metrics": 128, "differing": ["distill/synthetic.safetensors"] * 9}],
        "evaluation": [
            {"name": "one epoch", "own": millis, "plain": millis, "own_bytes": 10**9},
            {"name": "5 x 1000", "seconds": 12.34, "epochs": 400, "of": 1000, "goal": 3.0},
        ],
        "steps": [{"name": "rtp", "own": millis, "plain": millis, "own_bytes": 10**9, "plain_bytes": 10**10}],
        "modes": [{"name": "predictions, tf32, compile", "seconds": millis, "first": 123.4, "times_faster": 12.34}],
        "waits": [{"name": "evaluation", "waits": 9, "to_device": 9, "to_host": 9, "kernels": 32000, "busy": 0.5}],
        "packing": [
            *[{"name": "4 trials", "one_by_one": seconds, "side_by_side": seconds}],
        ],
    }
    rows["packing"][0] |= {"times_faster": spread([2.5]), "reserved_bytes": 2 * 10**9}
    for section in SECTIONS:
        text = section_text(section, {"status": "done", "rows": rows[section.name], "left_out": [], "error": ""})
        assert "…" not in text and max(map(len, text.splitlines())) <= WIDTH, text


def test_the_page_says_on_what_it_was_measured():
    machine = {"gpu": "NVIDIA H100", "memory": 80 * 2**30, "driver": "580.1", "cpus": 8, "cpu": "AMD EPYC"}
    machine |= {
        "python": "3.12.3",
        "versions": {"torch": "2.11.0"},
        "torch_cuda": "13.0",
        "cudnn": 91002,
        "commit": "abc",
    }
    values = {"began": "2026-11-29 12:00 UTC", "minutes": 8.0, "data": None, "pretended": False, "sections": {}}
    page = " ".join(page_of({"machine": machine, **values}).split())
    for said in ("NVIDIA H100, 80 GiB", "driver 580.1", "torch 2.11.0", "2026-11-29 12:00 UTC", "noise"):
        assert said in page
    assert "pretended" not in page
