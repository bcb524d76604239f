"""What a terminal, or a log, shows while a study runs."""

from __future__ import annotations

import shlex
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ddcal.cli.console import shown_path
from ddcal.pipeline import Advance
from ddcal.pipeline.stages import STAGES
from ddcal.study.record.results import Trial
from ddcal.study.run.interrupt import end_now, say, say_stopping
from ddcal.study.run.runner import Hooks, Start
from ddcal.study.run.worker import Assignment


class StudyProgress:
    """The callbacks of `run_study` as lines (and, in debug mode on a terminal, a progress bar)."""

    def __init__(self, console: Console) -> None:
        """Report to ``console``."""
        self.console = console
        self.started: Start | None = None
        self.finished = 0
        self._bar: Progress | None = None
        self._task: Any = None

    @property
    def hooks(self) -> Hooks:
        """The callbacks for `run_study`."""
        return Hooks(self.on_start, self.on_finished, self.on_trial, self.on_advance, self.on_interrupt)

    def __enter__(self) -> StudyProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self.started is not None:
            directory = shlex.quote(shown_path(self.started.directory))
            total = self.started.study.search.trials
            self.console.print(
                f"\nstopped: {self.finished} of {total} trials are finished, the others keep their state"
            )
            self.console.print(f"go on with  ddcal resume {directory}")

    def on_start(self, start: Start) -> None:
        """Say where the study runs."""
        self.started, self.finished = start, start.finished
        done = f" ({start.finished} finished)" if start.finished else ""
        self.console.print(f"study {start.study.name}: {start.study.search.trials} trials{done}; {start.where}")

    def on_finished(self, trial: Trial) -> None:
        """Print a finished trial's line."""
        assert self.started is not None
        self.finished += 1
        study = self.started.study
        total = study.search.trials
        metrics = trial.metrics or {}
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in study.objectives if name in metrics)
        cached = f"  (cached: {', '.join(trial.cache_hits)})" if trial.cache_hits else ""
        seconds = "" if trial.seconds is None else f"  {trial.seconds:.1f} s"
        error = f"  {trial.error.splitlines()[0][:160]}" if trial.error and trial.outcome != "pruned" else ""
        self.console.print(
            f"{self.finished:>{len(str(total))}}/{total}  {trial.trial_key}  {trial.outcome:<10}  "
            f"{shown}{seconds}{cached}{error}",
            markup=False,
        )

    def on_trial(self, assignment: Assignment) -> None:
        """Start a trial's progress bar."""
        if self.console.is_terminal:
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
                self._bar = Progress(*columns, console=self.console, transient=True)
                self._bar.start()
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(assignment.trial_key, total=1.0)

    def on_advance(self, advance: Advance) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            low, high = STAGES[advance.stage].span
            share = f" {advance.fraction:.0%}" if low == high else ""  # of a stage that is no part of progress
            self._bar.update(self._task, completed=advance.progress, description=f"{advance.stage + share:<9}")

    def on_interrupt(self, count: int, signum: int) -> None:
        """Say what a signal does; the second one ends this process, and with it the Ray that it has started."""
        if count == 1:
            say_stopping(signum)
            return
        if self._bar is not None:
            say(1, "\x1b[?25h")  # the bar has hidden the cursor
        go_on = ""
        if self.started is not None:
            go_on = f"; go on with  ddcal resume {shlex.quote(shown_path(self.started.directory))}"
        say(2, f"stopped at once{go_on}\n")
        end_now(signum)
