"""Ctrl-C while a study runs: the first one ends it where nothing is half done, the second one at once."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn


class CtrlC:
    """What SIGINT does at present. Outside `deferred` it is Python's own KeyboardInterrupt.

    Attributes:
        pressed: How often.
    """

    def __init__(self, on_interrupt: Callable[[int], None] | None = None) -> None:
        """Count from nothing.

        Args:
            on_interrupt: Called with the count at each; if it returns from the second, KeyboardInterrupt is raised.
        """
        self.pressed = 0
        self._on_interrupt = on_interrupt
        self._deferred = False
        self._then: Callable[[], None] | None = None

    @contextmanager
    def deferred(self, then: Callable[[], None] | None = None) -> Iterator[None]:
        """Let the first Ctrl-C in this context interrupt nothing: it calls ``then`` and is counted."""
        before = self._deferred, self._then
        self._deferred, self._then = True, then
        try:
            yield
        finally:
            self._deferred, self._then = before

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a Ctrl-C: called where nothing is half done."""
        if self.pressed:
            raise KeyboardInterrupt

    def handle(self, signum: int, frame: Any) -> None:
        """Handle SIGINT."""
        self.pressed += 1
        if self._on_interrupt is not None:
            self._on_interrupt(self.pressed)
        if self.pressed > 1 or not self._deferred:
            raise KeyboardInterrupt
        if self._then is not None:
            self._then()


@contextmanager
def ctrl_c(on_interrupt: Callable[[int], None] | None = None) -> Iterator[CtrlC]:
    """Handle Ctrl-C as `CtrlC` says for as long as the context lasts; off the main thread nothing changes."""
    handler = CtrlC(on_interrupt)
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = signal.signal(signal.SIGINT, handler.handle)
    try:
        yield handler
    finally:
        signal.signal(signal.SIGINT, before)


def end_now() -> NoReturn:
    """End this process with exit code 130 and every process below it: the Ray that it has started, and its workers."""
    if "ray" in sys.modules:
        with suppress(Exception):  # whatever this is, nothing may keep the process alive
            psutil = importlib.import_module("psutil")  # Ray brings it
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
    os._exit(130)
