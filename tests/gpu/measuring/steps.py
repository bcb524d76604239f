"""Seconds and memory of an iteration of every backbone, beside the same work in plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench_distill import PLAIN, own_step

from measuring.cases import LEARNED, step_distiller
from measuring.task import Row, Task, each_in_time, in_turns, with_peak


def measure(task: Task) -> Iterator[Row]:
    """Yield a row for each backbone: 10 classes of 10 images, 256 real ones a class, width 128, 20 inner steps."""
    with task.on_the_device():
        for backbone, part in each_in_time(task, LEARNED, str):
            distiller = step_distiller(task, backbone)
            before = distiller.state()

            def own(distiller=distiller, before=before) -> Any:  # type: ignore[no-untyped-def]
                return own_step(distiller, before)

            def plain(distiller=distiller, before=before, backbone=backbone) -> Any:  # type: ignore[no-untyped-def]
                distiller.restore(before)
                return PLAIN[backbone](distiller)

            if not task.pretended:  # the first choose and load kernels, with workspaces
                own(), plain()
            (loss, _), own_bytes = with_peak(own)
            (wanted, _), plain_bytes = with_peak(plain)
            taken = in_turns({"own": own, "plain": plain}, part)
            yield {
                "name": backbone,
                "own": taken["own"],
                "plain": taken["plain"],
                "own_bytes": own_bytes,
                "plain_bytes": plain_bytes,
                "loss_error": abs(loss - wanted) / abs(wanted),
            }
