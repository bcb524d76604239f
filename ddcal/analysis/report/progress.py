"""What a person sees while a report is made: which study of how many, its trials, and about how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from ddcal.analysis.report.studies import ReportStudy
from ddcal.errors import cut
from ddcal.pipeline.durations import duration
from ddcal.study.record.results import Trial
from ddcal.study.run.interrupt import end_now, say, say_stopping
from ddcal.study.run.runner import Hooks, Start

LINE_SECONDS = 15.0
"""A line about trials comes no more often than that; failures always have one."""

EXPECTED_MINUTES = 1.0
"""Minutes that count as passed as expected: the first trials have waited for Ray, and others run beside them."""


@dataclass
class _Running:
    """A study while it runs.

    Attributes:
        study: The study.
        began: When, in seconds of the monotonic clock.
        said: When a line about its trials was printed last.
        started_with: Trials that had ended before.
        finished: Trials that have ended.
    """

    study: ReportStudy
    began: float
    said: float
    started_with: int
    finished: int

    @property
    def minutes(self) -> float:
        return self.study.minutes or 0.0

    @property
    def trials(self) -> int:
        return max(1, self.study.config.search.trials)


class ReportProgress:
    """Lines on a console. One study may begin while another waits for its last trials."""

    def __init__(self, console: Console, command: str) -> None:
        """Begin.

        Args:
            console: Where to print.
            command: What goes on with the report after Ctrl-C.
        """
        self.console, self.command = console, command
        self._count, self._position = 0, 0
        self._todo: list[ReportStudy] = []
        self._running: dict[str, _Running] = {}
        self._began = self._ended = time.monotonic()
        self._measured = 0.0  # minutes of the studies that have ended, as they were expected

    def hooks_of(self, study: ReportStudy) -> Hooks:
        """Return what `ddcal.study.run.runner.run_studies` calls while a study runs."""
        return Hooks(
            on_start=lambda start: self._on_start(study, start),
            on_finished=lambda trial: self._on_finished(study, trial),
            on_interrupt=self._on_interrupt,
            on_closed=lambda results: self._on_closed(study),
        )

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
        self._ended = time.monotonic()
        self._began = self._ended - sum(took[study.config.name] for study in known)
        there = len(studies) - len(todo)
        self.say(f"{len(studies)} studies: {there} finished before, {len(todo)} to run{self._left()}")

    def stopped(self) -> None:
        """Ctrl-C has ended it."""
        self.say(f"stopped: finished trials count, the others keep their state; go on with  {self.command}")

    def _on_start(self, study: ReportStudy, start: Start) -> None:
        name, now = study.config.name, time.monotonic()
        if name in self._running:  # where it runs is known now
            return
        self._running[name] = _Running(study, now, now, start.finished, start.finished)
        self._position += 1
        trials = study.config.search.trials
        self.say(f"study {self._position} of {self._count}  {name}: {trials} trials{self._left()}")

    def _on_finished(self, study: ReportStudy, trial: Trial) -> None:
        running = self._running[study.config.name]
        running.finished += 1
        if trial.outcome not in ("complete", "infeasible"):
            reason = (trial.error or "").splitlines()[:1]
            self.say(f"  {trial.trial_key} {trial.outcome}: {cut(reason[0], 200) if reason else 'no reason is known'}")
        now = time.monotonic()
        if now - running.said >= LINE_SECONDS and running.finished < running.trials:
            running.said = now
            others = len(self._running) > 1  # then a line says of which study it is
            of = f" of {study.config.name}" if others else ""
            self.say(f"  {running.finished} of {running.trials} trials{of}{self._left()}")

    def _on_closed(self, study: ReportStudy) -> None:
        running, now = self._running.pop(study.config.name), time.monotonic()
        if running.started_with == 0:  # a resumed one says nothing about the time of a whole one
            self._measured += running.minutes
        else:
            others = [one.began for one in self._running.values() if one.started_with == 0]
            self._began += max(0.0, min([now, *others]) - max(running.began, self._ended))
        self._ended = now
        self._todo.remove(study)
        self.say(f"  {study.config.name} done in {duration(now - running.began)}")

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
        for running in self._running.values():
            share = running.minutes / running.trials
            minutes -= share * running.finished
            done += share * (running.finished - running.started_with)
        elapsed = (time.monotonic() - self._began) / 60.0
        pace = (elapsed + EXPECTED_MINUTES) / (done + EXPECTED_MINUTES) if done > 0.0 else 1.0
        return f"; about {duration(60.0 * minutes * pace)} left"
