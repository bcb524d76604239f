"""A section in a process of its own: what it sends is taken as it comes, and one that hangs or breaks ends alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from measuring.task import NoTime, Task


def messages_of(module: str, task: Task, limit: float) -> Iterator[tuple[str, Any]]:
    """Run a section in a process of its own and yield what it yields, and how it ended.

    Args:
        module: Its module.
        task: What its ``measure`` is told.
        limit: Seconds after which the process, and all that it started, is ended.

    Yields:
        ("row", what it yielded) each time, ("left out", names of what there was no time for), and at the end ("end",
        ""), ("error", its traceback), ("error", with which exit code it died) or ("late", "").
    """
    context = multiprocessing.get_context(task.start)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(module, task, sender), daemon=False)  # type: ignore[attr-defined]
    process.start()
    sender.close()
    deadline = time.monotonic() + limit
    try:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                yield "late", ""
                return
            try:
                kind, value = receiver.recv()
            except EOFError:
                process.join(10)
                yield "error", f"its process ended with {process.exitcode}"
                return
            yield kind, value
            if kind in ("end", "error"):
                process.join(10)
                return
    finally:
        receiver.close()
        if process.is_alive():
            _end(process.pid)
        process.join(10)


def _run(module: str, task: Task, sender: Connection) -> None:
    os.setsid()  # so that all that it starts can be ended with it
    try:
        for row in import_module(module).measure(task):
            sender.send(("row", row))
        sender.send(("end", ""))
    except NoTime as over:
        sender.send(("left out", over.names))
        sender.send(("end", ""))
    except BaseException as error:
        sender.send(("error", "".join(traceback.format_exception(error)).strip()))


def _end(group: int | None) -> None:
    if group is not None:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(group, signal.SIGKILL)


class Companion:
    """A process that answers calls, one after the other: ``ask`` starts a call, ``answer`` waits for what it returns.

    It ends with the section that started it.
    """

    def __init__(self, answers: Callable[[Any], Any], task: Task) -> None:
        """Start it.

        Args:
            answers: Called in the new process with every question; can be pickled.
            task: The section's.
        """
        context = multiprocessing.get_context(task.start)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(answers, theirs), daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()

    def ask(self, question: Any) -> None:
        """Start a call."""
        self._pipe.send(question)

    def answer(self) -> Any:
        """Return what the call returned.

        Raises:
            RuntimeError: with its traceback, if it raised.
        """
        try:
            error, value = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(f"a process ended with {self._process.exitcode}") from None
        if error:
            raise RuntimeError(error)
        return value

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)  # its brothers hold the other end too, so that closing it would say nothing
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)


def _serve(answers: Callable[[Any], Any], pipe: Connection) -> None:
    try:
        while (question := pipe.recv()) is not None:
            pipe.send(("", answers(question)))
    except (EOFError, KeyboardInterrupt):
        return
    except BaseException as error:
        pipe.send(("".join(traceback.format_exception(error)).strip(), None))
