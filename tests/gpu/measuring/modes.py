"""TF32 and compiled loops beside float32 as it is written: ``resources.precision`` and ``resources.compile``.

What is not compiled comes first: a first call that compiles may take a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench_distill import own_step

from ddcal.networks import predict_logits
from ddcal.pipeline.environment import Environment
from ddcal.seeding import generator
from measuring.cases import step_distiller
from measuring.evaluation import training
from measuring.task import Row, Task, each_in_time, in_turns, seconds

MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"precision": "tf32"},
    "compile": {"compile": True},
    "tf32, compile": {"precision": "tf32", "compile": True},
}
PAIRS = [(name, "tf32") for name in ("an epoch", "predictions", "dsa", "mtt")] + [
    (name, mode) for mode in ("compile", "tf32, compile") for name in ("an epoch", "predictions")
]
"""Work and mode; nothing that differentiates a gradient is compiled."""


def measure(task: Task) -> Iterator[Row]:
    """Yield a row for each work and mode, with how many times faster it is than float32 in turns with it."""
    pairs = [(name, mode) for name, mode in PAIRS if not (task.pretended and "compile" in mode)]
    shown = set()
    with task.on_the_device():
        for (name, mode), part in each_in_time(task, pairs, ", ".join):
            try:
                call = in_mode(mode, work(task, name, "compile" in mode))
                first = seconds(call)
            except Exception as error:
                if mode == "tf32":
                    raise
                yield {"name": f"{name}, {mode}", "note": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
                continue
            plain = in_mode("float32", work(task, name, False))
            taken = in_turns({"float32": plain, mode: call}, part)
            if name not in shown:
                shown.add(name)
                yield {"name": f"{name}, float32", "seconds": taken["float32"], "first": None, "times_faster": 1.0}
            times = taken["float32"]["median"] / taken[mode]["median"]
            yield {"name": f"{name}, {mode}", "seconds": taken[mode], "first": first, "times_faster": times}
    if task.pretended:
        yield {"name": "compile", "note": "nothing is compiled for the pretended device"}


def in_mode(mode: str, call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that sets the mode's switches first, as they are the process's."""
    environment = Environment("cuda", 1, **MODES[mode])

    def switched() -> object:
        environment.apply()
        return call()

    return switched


def work(task: Task, name: str, compiled: bool) -> Callable[[], object]:
    """Return one step of a work."""
    if name not in ("an epoch", "predictions"):
        distiller = step_distiller(task, name)
        before = distiller.state()
        return lambda: own_step(distiller, before)  # the same iteration every time
    one = training(task, 1, **({"compiled": True} if compiled else {}))
    if name == "an epoch":
        return one.step
    images = torch.randn(20 if task.pretended else 1000, 3, 32, 32, generator=generator(0, "bench", "images"))
    there = images.to("cuda")
    return lambda: predict_logits(one.networks[0], there)
