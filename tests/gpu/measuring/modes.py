"""TF32 and compiled loops beside float32 as it is written: what `resources.precision` and `resources.compile` bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ddcal.errors import ResourceError
from ddcal.networks import predict_logits
from ddcal.pipeline.environment import Environment
from ddcal.seeding import generator
from measuring.cases import step_distiller
from measuring.evaluation import training
from measuring.task import NoTime, Row, Task, in_turns, seconds

MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"precision": "tf32"},
    "compile": {"compile": True},
    "tf32, compile": {"precision": "tf32", "compile": True},
}
ALL = {
    "an epoch": tuple(MODES),
    "predictions": tuple(MODES),
    "dsa": ("float32", "tf32"),
    "mtt": ("float32", "tf32"),
}
"""What is measured, and in which modes: nothing that differentiates a gradient is compiled."""


def measure(task: Task) -> Iterator[Row]:
    """Yield a row for each work and mode, with how many times faster it is than float32."""
    left = list(ALL)
    with task.on_the_device():
        for name, wanted in ALL.items():
            if task.left <= 0.0 and name != left[0]:
                raise NoTime(left)
            calls: dict[str, Callable[[], object]] = {}
            first: dict[str, float] = {}
            for mode in wanted:
                if task.pretended and "compile" in mode:
                    continue
                try:
                    call = in_mode(mode, work(task, name, MODES[mode].get("compile", False)))
                    first[mode] = seconds(call)
                except ResourceError as error:
                    yield {"name": f"{name}, {mode}", "note": str(error)}
                    continue
                calls[mode] = call
            taken = in_turns(calls, task.part(1.0 / len(left)))
            left.remove(name)
            for mode, found in taken.items():
                yield {
                    "name": f"{name}, {mode}",
                    "seconds": found,
                    "first": first[mode],
                    "times_faster": taken["float32"]["median"] / found["median"],
                }
    if task.pretended:
        yield {"name": "compile", "note": "nothing is compiled for the pretended device"}


def in_mode(mode: str, call: Callable[[], object]) -> Callable[[], object]:
    """Return a call that sets the mode's switches for itself first: they are the process's."""
    environment = Environment("cuda", 1, **MODES[mode])
    environment.apply()

    def switched() -> object:
        environment.apply()
        return call()

    return switched


def work(task: Task, name: str, compiled: bool) -> Callable[[], object]:
    """Return one step of a work."""
    if name not in ("an epoch", "predictions"):
        return step_distiller(task, name).step  # type: ignore[no-any-return]
    one = training(task, 1, **({"compiled": True} if compiled else {}))
    if name == "an epoch":
        return one.step
    images = torch.randn(20 if task.pretended else 1000, 3, 32, 32, generator=generator(0, "bench", "images"))
    there = images.to("cuda")
    return lambda: predict_logits(one.networks[0], there)
