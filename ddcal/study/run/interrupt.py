"""Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP while a study runs: the first ends it where nothing is half done.

The second ends it at once. SIGTERM and SIGUSR1 are what schedulers send before they kill.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ddcal.errors import BadInput, Terminated
from ddcal.study.record.scheduler import job_end

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

SCHEDULERS = (signal.SIGTERM, signal.SIGUSR1)
"""What a scheduler sends; the exit code then asks it to start the study again."""

TOGETHER_SECONDS = 1.0
"""Signals but SIGINT within so long after another signal count as that one.

`timeout` sends SIGTERM to a program and then to its group, a service manager may send SIGHUP with it, and of a closed
terminal both the kernel and the shell send SIGHUP.
"""


class Interrupts:
    """What the signals do at present; outside `deferred` they raise `KeyboardInterrupt`.

    Attributes:
        pressed: How often there was one.
    """

    def __init__(self, on_interrupt: Callable[[int, int], None] | None = None) -> None:
        """Count from nothing.

        Args:
            on_interrupt: Called with the count and the signal's number at each; if it returns from the second,
                KeyboardInterrupt is raised.
        """
        self.pressed = 0
        self._on_interrupt = on_interrupt
        self._deferred = False
        self._then: Callable[[], None] | None = None
        self._first = int(signal.SIGINT)
        self._last = -TOGETHER_SECONDS
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    @contextmanager
    def deferred(self, then: Callable[[], None] | None = None) -> Iterator[None]:
        """Let the first signal in this context interrupt nothing: it calls ``then`` and is counted."""
        before = self._deferred, self._then
        self._deferred, self._then = True, then
        try:
            yield
        finally:
            self._deferred, self._then = before

    def check(self) -> None:
        """Raise `error` if there was a signal: called where nothing is half done."""
        if self.pressed:
            raise self.error()

    def error(self) -> KeyboardInterrupt:
        """Return what the first signal raises."""
        if self._first == signal.SIGINT:
            return KeyboardInterrupt()
        return Terminated(self._first, goes_on=self._first in SCHEDULERS)

    def handle(self, signum: int, frame: Any) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if signum != signal.SIGINT and now - self._last < TOGETHER_SECONDS:
            return
        self._last = now
        if signum == signal.SIGHUP:
            self._leave_terminal()
        self.pressed += 1
        if self.pressed == 1:
            self._first = signum
        if self._on_interrupt is not None:
            self._on_interrupt(self.pressed, signum)
        if self.pressed > 1 or not self._deferred:
            raise self.error()
        if self._then is not None:
            self._then()

    def _leave_terminal(self) -> None:
        """Say no more to a terminal that is gone: every write to it would fail."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in self._terminals:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def interruptible(on_interrupt: Callable[[int, int], None] | None = None) -> Iterator[Interrupts]:
    """Handle signals as `Interrupts` says for as long as the context lasts; off the main thread nothing changes.

    A signal but SIGINT that is ignored (``nohup``) stays ignored.
    """
    handler = Interrupts(on_interrupt)
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    for signum, disposition in before.items():
        if signum == signal.SIGINT or disposition is not signal.SIG_IGN:
            signal.signal(signum, handler.handle)
    try:
        yield handler
    finally:
        for signum, disposition in before.items():
            signal.signal(signum, disposition)


@contextmanager
def stopped_before(seconds: float | None) -> Iterator[None]:
    """Send this process SIGUSR1 so many seconds before the time limit of its SLURM job; nothing where there is none.

    Raises:
        BadInput: if the job has no more time than that.
    """
    end = None if seconds is None else job_end()
    if seconds is None or end is None:
        yield
        return
    left = end - time.time()
    if left <= seconds:
        raise BadInput(
            f"stop.before_seconds is {seconds:g}, and this SLURM job ends in {max(left, 0.0):.0f} seconds: it must be "
            "smaller than the job's time limit"
        )
    timer = threading.Timer(left - seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end_now(signum: int = signal.SIGINT) -> NoReturn:
    """End this process with exit code 128 + ``signum``, and every process below it: Ray's, if it has started one."""
    end_process(128 + signum)


def end_process(code: int) -> NoReturn:
    """End this process at once with that exit code, and every process below it."""
    if "ray" in sys.modules:
        with suppress(Exception):  # whatever this is, nothing may keep the process alive
            psutil = importlib.import_module("psutil")  # Ray brings it
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
    os._exit(code)


def say(descriptor: int, text: str) -> None:
    """Write to a descriptor from inside a signal's handler; an error is ignored."""
    with suppress(OSError):
        os.write(descriptor, text.encode())


def say_stopping(signum: int) -> None:
    """Say what the first signal does, and what a second one would."""
    say(2, f"\n{stopping_words(signum)}\n")


def stopping_words(signum: int) -> str:
    """Return what the first signal does, and what a second one would."""
    again = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
    return f"stopping: trials save their state; {again} again stops at once"
