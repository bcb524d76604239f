"""What a terminal, or a log, shows while a study runs: Ray or not."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP

from rich.console import Console, RenderableType
from rich.text import Text

from ddcal.cli.console import print_command, shown_path
from ddcal.cli.display import Display, can_display
from ddcal.cli.sheets import packed
from ddcal.cli.status_words import study_display
from ddcal.errors import BadInput, cut
from ddcal.pipeline.durations import duration
from ddcal.study.record.results import Trial
from ddcal.study.record.status import Status, status_line, study_status
from ddcal.study.run.interrupt import end_now, say, say_stopping, stopping_words
from ddcal.study.run.runner import Hooks, Start

LINE_SECONDS = 60.0
"""Where lines cannot be redrawn, there is one at least so often."""

READ_SECONDS = 0.5
"""How often, at most, the study's folder is read."""

READ_SHARE = 0.05
"""The share of the time that reading it may take, however many trials there are."""


class StudyProgress:
    """The callbacks of `run_study` as lines, with a display below them on a terminal."""

    def __init__(
        self,
        console: Console,
        line_seconds: float = LINE_SECONDS,
        *,
        command: Sequence[str] | None = None,
        address: str | None = None,
        debug: bool = False,
    ) -> None:
        """Begin.

        Args:
            console: Where to print.
            line_seconds: Where it is no terminal, there is a line at least so often.
            command: What goes on with the work after Ctrl-C; default: ``ddcal resume`` with the study's folder.
            address: Of the Ray that it is to go on on, as in `run_study`.
            debug: Whether it is to go on without Ray, as in `run_study`.
        """
        self.console = console
        self._command = command
        self._options = [*([] if address is None else ["--address", address]), *(["--debug"] if debug else [])]
        self.started: Start | None = None
        self.finished = 0
        self._display: Display | None = None
        self._status: Status | None = None
        self._read_next = 0.0
        self._stopping: int | None = None  # the signal that was the first
        self._line_seconds, self._said = line_seconds, time.monotonic()
        self._over = threading.Event()
        self._lines: threading.Thread | None = None

    @property
    def hooks(self) -> Hooks:
        """The callbacks for `run_study`."""
        return Hooks(
            on_start=self.on_start,
            on_finished=self.on_finished,
            on_interrupt=self.on_interrupt,
            on_lost=self.say_at_once,
            command=self._resume,
        )

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if self._display is not None:
            self._display.stop()
        if self._lines is not None:
            self._lines.join()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.started is not None:
            total = self.started.study.search.trials
            self.console.print(
                f"\nstopped: {self.finished} of {total} trials are finished, the others keep their state"
            )
            print_command("go on with", self._resume(self.started.directory), self.console)

    def on_start(self, start: Start) -> None:
        """Say where the study runs."""
        self.started, self.finished = start, start.finished
        done = f" ({start.finished} finished)" if start.finished else ""
        self._say(f"study {start.study.name}: {start.study.search.trials} trials{done}; {start.where}")
        if self._display is None and self._lines is None:
            if can_display(self.console):
                self._display = Display(self.console, self._draw)
            else:
                self._lines = threading.Thread(target=self._say_now_and_then, name="ddcal-lines", daemon=True)
                self._lines.start()

    def on_finished(self, trial: Trial) -> None:
        """Print a finished trial's line."""
        assert self.started is not None
        self.finished += 1
        study = self.started.study
        total = study.search.trials
        metrics = trial.metrics or {}
        fields = [(name, f"{metrics[name]:.4f}") for name in study.objectives if name in metrics]
        fields += [] if trial.seconds is None else [("", f"{trial.seconds:.1f} s")]
        fields += [("", f"(cached: {', '.join(trial.cache_hits)})")] if trial.cache_hits else []
        if trial.error and trial.outcome != "pruned":
            fields.append(("", cut(trial.error.splitlines()[0], 160)))
        head = f"{self.finished:>{len(str(total))}}/{total}  {trial.trial_key}  {trial.outcome:<10}"
        width = 10_000 if self._display is None else self._display.size[0]
        for place, line in enumerate(packed([("", head), *fields], width - 6)):
            self._say(f"{'      ' if place else ''}{line}")

    def on_interrupt(self, count: int, signum: int) -> None:
        """Say what a signal does; the second one ends this process, and with it the Ray that it has started."""
        if self._display is not None and signum == SIGHUP:
            self._display.leave()
        if count == 1:
            self._stopping = signum  # the display says so
            if self._display is None:
                say_stopping(signum)
            return
        go_on = "" if self.started is None else f"; go on with:\n  {self._resume(self.started.directory)}"
        self.say_at_once(f"stopped at once{go_on}")
        end_now(signum)

    def say_at_once(self, words: str) -> None:
        """Say the last words of this process, from inside a signal's handler or another thread."""
        if self._display is not None:
            self._display.say_at_once(f"{words}\n")
        else:
            say(2, f"{words}\n")

    def _resume(self, directory: Path) -> str:
        command = self._command or ("ddcal", "resume", shown_path(directory))
        return shlex.join([*command, *self._options])

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if self._display is not None:
            self._display.print(line)
        else:
            self.console.print(line, soft_wrap=not self.console.is_terminal)

    def _say_now_and_then(self) -> None:
        while not self._over.wait(min(1.0, self._line_seconds)):
            if time.monotonic() - self._said < self._line_seconds:
                continue
            self._read()
            if self._status is not None:
                self._say(status_line(self._status))

    def _read(self) -> None:
        """Read the study's folder, if it is time to; what cannot be read stays as it was."""
        began = time.monotonic()
        if self.started is None or began < self._read_next:
            return
        with suppress(BadInput, OSError):  # not begun yet; or damaged, which the driver will tell
            self._status = study_status(self.started.directory)
        now = time.monotonic()
        self._read_next = now + max(READ_SECONDS, (now - began) / READ_SHARE)

    def _draw(self, width: int, height: int) -> RenderableType:
        self._read()
        assert self.started is not None
        notice = "" if self._stopping is None else stopping_words(self._stopping)
        if self._status is None or self._status.state != "running":
            return Text(notice or f"{self.started.where}, {duration(time.monotonic() - self._said)}")
        return study_display(self._status, width, height, notice, self.started.cpus, self.started.gpus)
