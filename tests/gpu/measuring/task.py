"""What a section is told: where it computes, how large, on which data, and until when; and clocks for a GPU."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import ddcal
from ddcal.pipeline.environment import Environment

Row = dict[str, Any]
"""One line of a section: ``name``, what was measured, and ``right``: True or False where something is checked. A row
with ``left_out`` says that there was no time for it, one with ``note`` what else is to be known."""


@dataclass(frozen=True)
class Task:
    """What a section is told.

    Attributes:
        pretended: Whether the device is the pretended one, at sizes that take fractions of a second.
        deadline: When the section has to be done, `time.monotonic`.
        data: The folder of the real CIFAR-10, or None.
        anew: Whether processes of the pretended device begin anew too.
    """

    pretended: bool
    deadline: float
    data: str | None = None
    anew: bool = False

    @property
    def start(self) -> str:
        """How processes are started: anew, as CUDA asks for it, or as forks, which begin at once."""
        return "fork" if self.pretended and not self.anew else "spawn"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def part(self, share: float) -> Task:
        """Return the same with an earlier deadline: after so much of what is left."""
        return replace(self, deadline=time.monotonic() + share * max(0.0, self.left))

    @contextlib.contextmanager
    def on_the_device(self, **environment: Any) -> Iterator[Any]:
        """Compute there: yields the pretended device, or None; sets torch's switches as every trial has them."""
        with contextlib.ExitStack() as entered:
            device = None
            if self.pretended:
                from pretended_cuda import PretendedCuda

                device = entered.enter_context(PretendedCuda(Path(ddcal.__file__).parent))
            Environment("cuda", 1, **environment).apply()
            yield device


def each_in_time(task: Task, items: Sequence[Any], name: Callable[[Any], str]) -> Iterator[tuple[Any, Task]]:
    """Yield items with what time each may take, and say which ones there was no time for.

    The first is always yielded: something is better than nothing.
    """
    for index, item in enumerate(items):
        if index and task.left <= 0.0:
            raise NoTime([name(one) for one in items[index:]])
        yield item, task.part(1.0 / (len(items) - index))


class NoTime(Exception):
    """There was no time for what is named."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = list(names)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes until the GPU is done with it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turns(calls: dict[str, Callable[[], object]], task: Task, most: int = 30, least: int = 3) -> dict[str, Row]:
    """Return each call's `spread`, measured in turns after a warm-up until the time is used up.

    Args:
        calls: Name → what to time.
        task: Until when.
        most: Turns at most.
        least: Turns at least, whatever the time.
    """
    if task.pretended:
        most = least = 1
    else:
        for call in calls.values():
            seconds(call)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(most):
        if turn >= least and task.left <= 0.0:
            break
        for name, call in calls.items():
            taken[name].append(seconds(call))
    return {name: spread(values) for name, values in taken.items()}


def spread(values: Sequence[float]) -> Row:
    """Return the median, the lowest and the highest of values, and how many they are."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values)}


def with_peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """Return what a call returns, and how much more of the GPU's memory is allocated at most than before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = call()
    torch.cuda.synchronize()
    return found, torch.cuda.max_memory_allocated() - before
