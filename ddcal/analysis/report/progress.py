"""What a person sees while a report is made: which study of how many, its trials, and about how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from ddcal.analysis.report.studies import ReportStudy
from ddcal.errors import cut
from ddcal.pipeline.durations import duration
from ddcal.study.record.results import Trial
from ddcal.study.run.interrupt import end_now, say, say_stopping
from ddcal.study.run.runner import Hooks, Start

LINE_SECONDS = 15.0
"""A line about trials comes no more often than that; failures always have one."""


class ReportProgress:
    """Lines on a console."""

    def __init__(self, console: Console, command: str) -> None:
        """Begin.

        Args:
            console: Where to print.
            command: What goes on with the report after Ctrl-C.
        """
        self.console, self.command = console, command
        self._count, self._position = 0, 0
        self._todo: list[ReportStudy] = []
        self._present: ReportStudy | None = None
        self._began = self._study_began = self._said = time.monotonic()
        self._measured = 0.0  # minutes of the studies that have ended, as they were expected
        self._finished = self._started_with = 0

    @property
    def hooks(self) -> Hooks:
        """The callbacks for `ddcal.study.run_study`."""
        return Hooks(on_start=self._on_start, on_finished=self._on_finished, on_interrupt=self._on_interrupt)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, studies: Sequence[ReportStudy], todo: Sequence[ReportStudy], took: Mapping[str, float]) -> None:
        """Say what there is to do.

        Args:
            studies: All studies of the report.
            todo: Those that are not finished.
            took: Name → the seconds that a finished study took, which tell how fast this machine is.
        """
        self._count, self._position, self._todo = len(todo), 0, list(todo)
        known = [study for study in studies if study.minutes is not None and study.config.name in took]
        self._measured = sum(study.minutes or 0.0 for study in known)
        self._began = time.monotonic() - sum(took[study.config.name] for study in known)
        there = len(studies) - len(todo)
        self.say(f"{len(studies)} studies: {there} finished before, {len(todo)} to run{self._left()}")

    def next_study(self, study: ReportStudy) -> None:
        """A study begins."""
        self._present, self._position = study, self._position + 1
        self._study_began = self._said = time.monotonic()
        self._finished = self._started_with = 0
        trials = study.config.search.trials
        self.say(f"study {self._position} of {self._count}  {study.config.name}: {trials} trials{self._left()}")

    def end_study(self) -> None:
        """The study that began last has ended."""
        assert self._present is not None
        seconds = time.monotonic() - self._study_began
        if self._started_with == 0:  # a resumed one says nothing about the time of a whole one
            self._measured += self._present.minutes or 0.0
        else:
            self._began += seconds
        self._todo.remove(self._present)
        self.say(f"  done in {duration(seconds)}")
        self._present = None

    def stopped(self) -> None:
        """Ctrl-C has ended it."""
        self.say(f"stopped: finished trials count, the others keep their state; go on with  {self.command}")

    def _on_start(self, start: Start) -> None:
        self._finished = self._started_with = start.finished

    def _on_finished(self, trial: Trial) -> None:
        assert self._present is not None
        self._finished += 1
        if trial.outcome not in ("complete", "infeasible"):
            reason = (trial.error or "").splitlines()[:1]
            self.say(f"  {trial.trial_key} {trial.outcome}: {cut(reason[0], 200) if reason else 'no reason is known'}")
        now, total = time.monotonic(), self._present.config.search.trials
        if now - self._said >= LINE_SECONDS and self._finished < total:
            self._said = now
            self.say(f"  {self._finished} of {total} trials{self._left()}")

    def _on_interrupt(self, count: int, signum: int) -> None:
        if count == 1:
            say_stopping(signum)
        else:
            say(2, f"stopped at once; go on with  {self.command}\n")
            end_now(signum)

    def _left(self) -> str:
        """Return about how long the rest takes, as the studies so far went; empty if that is not known."""
        if not self._todo or any(study.minutes is None for study in self._todo):
            return ""
        minutes = sum(study.minutes or 0.0 for study in self._todo)
        done = self._measured
        if self._present is not None:
            total = max(1, self._present.config.search.trials)
            share = (self._present.minutes or 0.0) / total
            minutes -= share * self._finished
            done += share * (self._finished - self._started_with)
        elapsed = (time.monotonic() - self._began) / 60.0
        pace = elapsed / done if done > 0.2 else 1.0
        return f"; about {duration(60.0 * minutes * pace)} left"
