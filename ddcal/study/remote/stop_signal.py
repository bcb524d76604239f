"""Telling workers to stop that do not see the driver's folder, where a file tells the others.

A study that is kept on S3 needs no folder that all nodes see. So an actor of the driver's is asked once by each worker,
and answers when the study is to stop: to look whether it has answered costs no message.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ddcal.study.run.cluster_leases import NAMESPACE

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How often the driver looks whether to tell them, and how often it tells them then: one may be starting."""

MOST_WORKERS = 100_000


def signal_actor() -> type:
    """Return the class of the actor; a class of a function is sent by value, so the actor need not import torch."""

    class StopSignal:
        """Answers whoever waits, once the signal is given."""

        def __init__(self) -> None:
            import asyncio

            self._given = asyncio.Event()

        async def wait(self) -> bool:
            """Return when the signal is given."""
            return await self._given.wait()

        async def give(self) -> None:
            """Give the signal."""
            self._given.set()

    return StopSignal


@contextmanager
def stop_signal(ray: Any, asked: Callable[[], bool]) -> Iterator[str]:
    """Tell workers on every node to stop as soon as ``asked`` says so; yield the name under which they ask.

    Args:
        ray: Connected.
        asked: Whether the study is to stop; called in another thread.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name, over = f"stop-{uuid.uuid4().hex[:16]}", threading.Event()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    actor = ray.remote(signal_actor()).options(**options, max_concurrency=MOST_WORKERS).remote()

    def tell() -> None:
        while not over.wait(POLL_SECONDS):
            if asked():
                with suppress(Exception):  # Ray is gone
                    actor.give.remote()

    thread = threading.Thread(target=tell, name="ddcal-stop", daemon=True)
    thread.start()
    try:
        yield name
    finally:
        over.set()
        thread.join()


class SignalledToStop:
    """Whether the driver has told the workers to stop, as one of them asks."""

    def __init__(self, name: str) -> None:
        """Ask under the name that `stop_signal` yields, at the first call."""
        self._name = name
        self._answer: Any = None

    def __call__(self) -> bool:
        """Return whether it has, without waiting; False where nobody can be asked."""
        import ray

        try:
            if self._answer is None:
                self._answer = ray.get_actor(self._name, namespace=NAMESPACE).wait.remote()
            there, _ = ray.wait([self._answer], timeout=0)
            return bool(there) and bool(ray.get(there[0]))
        except Exception as error:  # it has died with its node: it is asked anew, where it was started again
            logger.info("the driver cannot be asked whether to stop: %s", error)
            self._answer = None
            return False
