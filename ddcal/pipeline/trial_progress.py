"""What a person sees of `run_trial`: what it will cost, and how far it is; on a terminal, in a notebook, in a log."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Self

from ddcal.pipeline.advance import Advance
from ddcal.pipeline.durations import duration
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.trial import TrialRunner

SHOWN_PERCENT = 5
"""In a notebook the line is written anew after so many percent."""


def trial_costs(runner: TrialRunner) -> dict[str, float | None]:
    """Return stage → the seconds that it will compute on this machine; None for one that the store has.

    A few steps of every missing stage are measured, which takes about a second each; nothing is published.

    Args:
        runner: A trial that has not begun.

    Raises:
        BadInput: if the dataset cannot give the images that the trial asks for.
    """
    from ddcal.pipeline.measuring import measure

    costs: dict[str, float | None] = {}
    for name, key in runner.keys.items():
        stage = STAGES[name]
        if runner.store.get(name, key) is not None:
            costs[name] = None
        else:
            cost = measure(runner.config, name, runner.dataset, runner.environment)
            costs[name] = cost.seconds(stage.amount(runner.config))
    return costs


def cost_sentence(costs: dict[str, float | None], runner: TrialRunner) -> str:
    """Return what a trial will cost, in a line."""
    there = [name for name, seconds in costs.items() if seconds is None]
    missing = {name: seconds for name, seconds in costs.items() if seconds is not None}
    if not missing:
        return f"every stage of this trial is in the store {runner.store.place}: nothing is computed"
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in missing.items())
    threads = runner.environment.threads
    where = f"{runner.environment.device_kind}, {threads} thread{'s' * (threads != 1)}"
    in_store = f"; in the store: {', '.join(there)}" if there else ""
    return f"about {duration(sum(missing.values()))} on {where}: {parts}{in_store}"


class TrialProgress(AbstractContextManager["TrialProgress"]):
    """Shows how far a trial is: a bar on a terminal, one line in a notebook, elsewhere a line a stage (stderr)."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._stage = ""
        self._percent = -SHOWN_PERCENT
        self._bar: Any = None
        self._task: Any = None
        self._line: Any = None
        self._notebook = in_notebook()

    def __enter__(self) -> Self:
        if not self._notebook and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr)

    def show(self, advance: Advance) -> None:
        """Show where the trial is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=advance.progress, description=f"{advance.stage:<9}")
            return
        if self._notebook:
            percent = int(100 * advance.progress)
            if advance.stage != self._stage or percent >= self._percent + SHOWN_PERCENT or percent == 100:
                self._stage, self._percent = advance.stage, percent
                self._rewrite(f"{percent:3d} %  {advance.stage}")
        elif advance.stage != self._stage:
            self._stage = advance.stage
            self.say(f"{advance.progress:4.0%}  {advance.stage}")

    def _rewrite(self, text: str) -> None:
        if self._line is None:
            self._line = import_module("IPython.display").display(_Text(text), display_id=True)
        else:
            self._line.update(_Text(text))


class _Text:
    """Text that a notebook shows as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
