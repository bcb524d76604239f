"""Measure ddcal on a GPU: one command for the day on which one is there.

    python tests/gpu/measure.py --minutes 8                      # all sections
    python tests/gpu/measure.py --minutes 8 --data PATH          # on real CIFAR-10 where data counts
    python tests/gpu/measure.py --sections steps waits           # some
    python tests/gpu/measure.py --device pretended --minutes 1   # without a GPU: that it runs

It runs in a checkout, ddcal installed or not, and needs neither ray nor mlflow. Each section is a process of its own
with a share of the time: one that fails or hangs says so, and the others go on. ``measure.json`` (everything) and
``measure.md`` (the tables) are written after every row.

Exit code: 0 if all that was looked at is right, 1 if something is wrong or failed, 2 if it cannot begin.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "benchmarks")]

from measuring.machine import missing_packages  # noqa: E402 - from the checkout that this file is in
from measuring.sections import SECTIONS, Section  # noqa: E402

GRACE = 15.0
"""Seconds that a section may go on after its time, to end what it has begun."""
LEAST = 0.5
"""Seconds that must be left for another section to begin."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, write and print; return the exit code."""
    options = parsed(arguments)
    if missing := missing_packages(options.data is not None):
        return refused(f"this Python ({sys.executable}) lacks {', '.join(missing)}: pip install {' '.join(missing)}")
    if options.data is not None and (problem := data_problem(options.data)):
        return refused(problem)
    import torch

    if options.device == "pretended" and not options.anew:
        preload()
    end = time.monotonic() + 60.0 * options.minutes
    measured: dict[str, Any] = {
        "format": 1,
        "began": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "minutes": options.minutes,
        "data": options.data,
        "pretended": options.device == "pretended",
        "sections": {},
    }
    machine = run_section("measuring.machine", options, end, lambda _: None)
    if not machine["rows"]:
        return refused(f"the GPU does not answer ({machine['status']}):\n{machine['error']}")
    measured["machine"] = machine["rows"][0]
    if measured["machine"]["gpu"] is None:
        built = f"torch {torch.__version__} (CUDA {torch.version.cuda})"
        return refused(f"{built} sees no GPU here; --device pretended shows that it runs")
    options.output.mkdir(parents=True, exist_ok=True)
    from measuring.tables import head_of, section_text

    print(head_of(measured), flush=True)
    wanted = [section for section in SECTIONS if section.name in options.sections]
    for index, section in enumerate(wanted):
        share = section.share / sum(one.share for one in wanted[index:])
        found = measured["sections"][section.name] = in_its_time(section, options, share, end, measured)
        write(measured, options.output)
        print(section_text(section, found), flush=True)
    print(f"written: measure.json and measure.md in {options.output}")
    return verdict(measured)


def preload() -> None:
    """Import what the forks need, once for all of them."""
    import torch
    import torch._dynamo

    torch.set_num_threads(1)  # a thread pool would not outlive a fork
    for section in SECTIONS:
        importlib.import_module(section.module)


def in_its_time(section: Section, options: argparse.Namespace, share: float, end: float, measured: Any) -> Any:
    """Run a section within its share of what is left; ``measured`` is written after every row."""
    left = end - time.monotonic()
    if left < LEAST:
        return {"status": "left out", "rows": [], "left_out": ["all of it"], "error": "", "seconds": 0.0}

    def keep(found: dict[str, Any]) -> None:
        measured["sections"][section.name] = found
        write(measured, options.output)

    return run_section(section.module, options, time.monotonic() + share * left, keep, end)


def run_section(module: str, options: argparse.Namespace, deadline: float, keep: Any, end: float | None = None) -> Any:
    """Run a section in a process of its own and return its record: status, rows, what there was no time for, error."""
    from measuring.process import messages_of
    from measuring.task import Task

    began = time.monotonic()
    record: dict[str, Any] = {"status": "running", "rows": [], "left_out": [], "error": "", "seconds": 0.0}
    task = Task(options.device == "pretended", deadline, options.data, options.anew)
    for kind, value in messages_of(module, task, min(deadline, end or deadline) + GRACE - began):
        if kind == "row":
            record["rows"].append(value)
        elif kind == "left out":
            record["left_out"] += value
        elif kind == "late":
            record["left_out"].append("what was not done after its time")
        elif kind == "error":
            record |= {"status": "failed", "error": value}
        record["seconds"] = round(time.monotonic() - began, 2)
        keep(record)
    if record["status"] == "running":
        record["status"] = "partly" if record["left_out"] else "done"
    return record


def verdict(measured: dict[str, Any]) -> int:
    """Return 1 if a section failed or a row is wrong, else 0."""
    sections = measured["sections"].values()
    wrong = any(row.get("right") is False for section in sections for row in section["rows"])
    return int(wrong or any(section["status"] == "failed" for section in sections))


def write(measured: dict[str, Any], folder: Path) -> None:
    """Write both files, each whole or not at all."""
    from measuring.tables import page_of

    for name, text in (("measure.json", json.dumps(measured, indent=1) + "\n"), ("measure.md", page_of(measured))):
        temporary = folder / f".{name}.part"
        temporary.write_text(text)
        os.replace(temporary, folder / name)


def data_problem(root: str) -> str:
    """Return why CIFAR-10 cannot be read from ``root``, or an empty string."""
    from measuring.cases import real_data

    from ddcal.data import DataError

    try:
        real_data(root)
    except DataError as error:
        return f"--data {root}: {error}"
    return ""


def refused(problem: str) -> int:
    """Say why nothing is measured, and return 2."""
    print(f"measure.py: {problem}", file=sys.stderr)
    return 2


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [section.name for section in SECTIONS]
    parser.add_argument("--minutes", type=minutes, default=8.0, help="for all sections together (default 8)")
    parser.add_argument("--data", help="the folder that has cifar-10-batches-py or cifar10.npz (default: noise)")
    parser.add_argument("--sections", nargs="+", choices=names, default=names, help="(default: all)")
    parser.add_argument("--output", type=Path, default=Path("gpu-measure"), help="a folder (default: gpu-measure)")
    parser.add_argument("--device", choices=("cuda", "pretended"), default="cuda")
    parser.add_argument("--anew", action="store_true", help=argparse.SUPPRESS)  # processes of the pretended device too
    return parser.parse_args(arguments)


def minutes(text: str) -> float:
    """Return a positive number of minutes."""
    value = float(text)
    if not 0.0 < value < 1e4:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
