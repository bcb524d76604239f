"""The last lines of a terminal, redrawn a few times a second; whatever else is written stands above them."""

from __future__ import annotations

import codecs
import faulthandler
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from ddcal.cli.console import PlainConsole
from ddcal.study.run.interrupt import say

TICK_SECONDS = 0.2
"""Between two drawings."""

_END = b"\0end\0"
_SHOW_CURSOR = "\x1b[?25h"


def can_display(console: Console) -> bool:
    """Return whether a console is a terminal whose lines can be redrawn."""
    try:
        return console.is_terminal and not console.is_dumb_terminal and os.isatty(console.file.fileno())
    except (OSError, ValueError):  # no file of the operating system's
        return False


class Display:
    """Draws on a terminal until it is stopped.

    Standard output and error of this process go through a pipe meanwhile, as far as they are this terminal: what
    Python, a library or Ray writes there is printed above the drawing, line by line.
    """

    def __init__(self, console: Console, draw: Callable[[int, int], RenderableType]) -> None:
        """Begin to show what ``draw`` returns for a width and a height; it is called from another thread."""
        self._draw = draw
        self._terminal = os.dup(console.file.fileno())
        encoding = getattr(console.file, "encoding", None) or "utf-8"
        self._stream = os.fdopen(os.dup(self._terminal), "w", encoding=encoding, errors="replace")
        self._console = PlainConsole(file=self._stream, highlight=False, markup=False, emoji=False, force_terminal=True)
        self._over = threading.Event()
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest, self._rest_before = "", ""
        self._breakpoint = sys.breakpointhook
        self._resize()
        self._live = Live(console=self._console, auto_refresh=False, transient=True,
                          redirect_stdout=False, redirect_stderr=False)  # fmt: skip
        self._capture()
        self._live.start()
        self._thread = threading.Thread(target=self._run, name="ddcal-display", daemon=True)
        self._thread.start()

    @property
    def size(self) -> tuple[int, int]:
        """The terminal's columns and lines."""
        return self._console.width, self._console.height

    def print(self, text: Any, **options: Any) -> None:
        """Print above the drawing."""
        self._console.print(text, **options)

    def stop(self) -> None:
        """Take the drawing away, print what is left to be printed, and give the terminal back."""
        if self._over.is_set():
            return
        self._over.set()
        self._release()
        self._thread.join()
        self._reader.join(5.0)  # a child that has inherited the pipe may keep it open
        with suppress(OSError, ValueError):  # the terminal may be gone
            self._print_captured(everything=True)
            self._live.stop()
            self._stream.close()
        os.close(self._terminal)

    def say_at_once(self, text: str) -> None:
        """Write below the drawing, from inside a signal's handler: this process ends next."""
        say(self._terminal, f"{_SHOW_CURSOR}\n{text}")

    def leave(self) -> None:
        """Write nowhere from now on: the terminal is gone. May be called from inside a signal's handler."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (self._terminal, self._stream.fileno(), *self._before.values()):
                os.dup2(nowhere, descriptor)
            os.close(nowhere)

    def _capture(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._before = {fd: os.dup(fd) for fd in (1, 2) if os.isatty(fd)}
        read, write = os.pipe()
        for descriptor in self._before:
            os.dup2(write, descriptor)
        self._write = write
        self._reader = threading.Thread(target=self._read, args=(read,), name="ddcal-captured", daemon=True)
        self._reader.start()
        self._own_faults = not faulthandler.is_enabled()
        if self._own_faults:  # what a crash says would be lost in the pipe
            faulthandler.enable(self._terminal)
        sys.breakpointhook = self._at_breakpoint

    def _release(self) -> None:
        sys.breakpointhook = self._breakpoint
        if self._own_faults:
            faulthandler.disable()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os.write(self._write, _END)
        for descriptor, before in self._before.items():
            os.dup2(before, descriptor)
            os.close(before)
        os.close(self._write)

    def _at_breakpoint(self, *arguments: Any, **options: Any) -> Any:
        """Give the terminal to a debugger, for good."""
        self.stop()
        return self._breakpoint(*arguments, **options)

    def _read(self, pipe: int) -> None:
        last = b""
        while not last.endswith(_END):
            piece = os.read(pipe, 65536)
            if not piece:
                break
            self._pieces.put(piece)
            last = (last + piece)[-len(_END) :]
        os.close(pipe)

    def _run(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            with suppress(OSError, ValueError):  # the terminal is gone: SIGHUP follows
                self._resize()
                self._print_captured()
                self._live.update(self._draw(*self.size), refresh=True)

    def _resize(self) -> None:
        """Take the terminal's size from itself: none of the standard streams need be it."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self._terminal)
            if columns and lines:
                self._console.size = (columns, lines)

    def _print_captured(self, everything: bool = False) -> None:
        pieces = []
        with suppress(queue.Empty):
            while True:
                pieces.append(self._pieces.get_nowait())
        text = self._rest + self._decoder.decode(b"".join(pieces)).replace(_END.decode(), "")
        *lines, self._rest = text.split("\n")
        waits = self._rest != self._rest_before or "\r" in self._rest  # a bar that is redrawn in place
        if self._rest and (everything or not waits):  # a prompt, perhaps
            lines.append(self._rest)
            self._rest = ""
        self._rest_before = self._rest
        for line in lines:
            self._console.print(Text.from_ansi(line.rstrip("\r").rpartition("\r")[2]), soft_wrap=True)
