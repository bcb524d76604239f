"""Whether a trial that is run twice, in two processes, gives the same bits: metrics, and digests of files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from measuring.cases import LEARNED, finished_trial, small_trial, write_arrays
from measuring.process import Companion
from measuring.task import Row, Task, each_in_time

NOT_COMPARED = {"reliability.png", "pictures.safetensors"}


def measure(task: Task) -> Iterator[Row]:
    """Yield a row for each backbone: a trial with masks, folds and two networks."""
    backbones = ("dm",) if task.pretended else ("real", *LEARNED)
    with tempfile.TemporaryDirectory(prefix="ddcal-measure-") as name:
        folder = Path(name)
        arrays = write_arrays(folder)

        companions = {
            store: Companion(partial(run, task, arrays, folder / store), task) for store in ("first", "second")
        }
        try:
            for backbone, _ in each_in_time(task, backbones, str):
                for companion in companions.values():
                    companion.ask(backbone)
                first, second = (companion.answer() for companion in companions.values())
                yield compared(backbone, first, second)
        finally:
            for companion in companions.values():
                companion.close()


def run(task: Task, arrays: Path, store: Path, backbone: str) -> dict[str, Any]:
    """Run a trial to its end and return the digests of its files, and its metrics."""
    with task.on_the_device():
        runner = finished_trial(small_trial(task, arrays, backbone), store / backbone)
    files = {
        f"{stage}/{file}": digest
        for stage, entry in runner.entries.items()
        for file, digest in entry.files.items()
        if file not in NOT_COMPARED
    }
    return {"files": files, "metrics": runner.metrics}


def compared(backbone: str, first: dict[str, Any], second: dict[str, Any]) -> Row:
    """Return a row that says what of two runs differs."""
    differing = [
        f"{part}/{name}" if part == "metrics" else name
        for part in ("files", "metrics")
        for name in sorted(first[part].keys() | second[part].keys())
        if first[part].get(name) != second[part].get(name)
    ]
    return {
        "name": backbone,
        "files": len(first["files"]),
        "metrics": len(first["metrics"]),
        "differing": differing,
        "right": not differing,
    }
