"""Four trials on one GPU: four processes side by side, beside the same four one after the other."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from measuring.cases import finished_trial, small_trial, write_arrays
from measuring.process import Companion
from measuring.task import Row, Task, spread

TRIALS = 4
LONGER: dict[str, Any] = {
    "network": {"width": 128},
    "distill": {"ipc": 10, "iterations": 100, "dm": {"real_batch": 64}},
    "train": {"epochs": 100, "networks": 3},
    "calibrate": {"method": "mts"},
}
"""What such a trial computes for seconds."""


def measure(task: Task) -> Iterator[Row]:
    """Yield one row: seconds of both, in turns, and how many times faster side by side is."""
    trials = 2 if task.pretended else TRIALS
    with tempfile.TemporaryDirectory(prefix="ddcal-measure-") as name:
        folder = Path(name)
        arrays = write_arrays(folder)
        companions = [Companion(partial(run, task, arrays, folder, trials), task) for _ in range(trials)]
        try:
            yield from in_turns(task, companions)
        finally:
            for companion in companions:
                companion.close()


def run(task: Task, arrays: Path, folder: Path, trials: int, seed: int) -> int:
    """Run a trial to its end and return how many bytes of the GPU its process holds at most."""
    with task.on_the_device():
        if not task.pretended:
            torch.cuda.set_per_process_memory_fraction(1.0 / trials - 0.01)
        config = small_trial(task, arrays, "dm", **({} if task.pretended else LONGER))
        finished_trial(config.model_copy(update={"seed": seed}), folder / f"store-{seed}")
        return torch.cuda.max_memory_reserved()


def in_turns(task: Task, companions: list[Companion]) -> Iterator[Row]:
    """Run the trials both ways, with new seeds each time, until the time is used up."""
    seed, peak = 0, 0
    for companion in companions:  # each makes its context, and loads what it needs
        companion.ask(seed := seed + 1)
    for companion in companions:
        companion.answer()
    alone, together = list[float](), list[float]()
    while not together or (task.left > sum(alone + together) / len(together) and not task.pretended):
        began = time.perf_counter()
        for companion in companions:
            companion.ask(seed := seed + 1)
            companion.answer()
        alone.append(time.perf_counter() - began)
        began = time.perf_counter()
        for companion in companions:
            companion.ask(seed := seed + 1)
        peak = max(companion.answer() for companion in companions)
        together.append(time.perf_counter() - began)
    yield {
        "name": f"{len(companions)} trials",
        "one_by_one": spread(alone),
        "side_by_side": spread(together),
        "times_faster": spread([a / b for a, b in zip(alone, together, strict=True)]),
        "reserved_bytes": peak,
        "cpus": os.cpu_count(),
    }
