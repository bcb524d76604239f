"""How far a study is, as a console shows it: for `ddcal status`, and for a terminal while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ddcal.cli.sheets import packed, shortened
from ddcal.study.record.status import at_words, best_label, best_words, finished_words, left_words

if TYPE_CHECKING:
    from ddcal.study.record.status import Status


def status_table(
    status: Status, width: int, lines: int | None = None, cpus: float | None = None, gpus: float | None = None
) -> Table:
    """Return a study's best trial, running trials, shares in use, rate and MLflow's state, a line or more each.

    Args:
        status: The study's.
        width: Of the console.
        lines: How many running trials are shown at most; None for all.
        cpus: How many CPUs there are; None if that is not known.
        gpus: As ``cpus``.
    """
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    best = best_words(status)
    for place, line in enumerate(packed(best, width - 14)):
        grid.add_row("" if place else best_label(status), Text(line))
    names = shortened([trial.trial_key for trial in status.running], max(12, width // 2 - 7))
    longest = max(map(len, names.values()), default=0)
    shown = status.running if lines is None or len(status.running) <= lines else status.running[: max(1, lines - 1)]
    for place, trial in enumerate(shown):
        key = names[trial.trial_key]
        grid.add_row("" if place else "running", Text(f"{key:<{longest}}  {at_words(trial)}"))
    if len(shown) < len(status.running):
        grid.add_row("", Text(f"and {len(status.running) - len(shown)} more"))
    if status.running:
        grid.add_row("in use", Text(_shares(status, cpus, gpus)))
    if left := left_words(status):
        grid.add_row("rate", Text(left))
    if status.job is not None:
        pod = status.job.startswith("pod ")
        grid.add_row("pod" if pod else "SLURM job", Text(status.job.removeprefix("pod ")))
    if status.unsent is not None:
        lacks = f"lacks the last {status.unsent} event{'s' * (status.unsent != 1)}"
        grid.add_row("MLflow", Text(lacks if status.unsent else "has everything"))
    return grid


def study_display(
    status: Status, width: int, height: int, notice: str = "", cpus: float | None = None, gpus: float | None = None
) -> Group:
    """Return what a terminal shows of a running study.

    Args:
        status: The study's.
        width: Of the terminal, in columns.
        height: Of the terminal, in lines.
        notice: A line above everything else; none where empty.
        cpus: As of `status_table`.
        gpus: As of `status_table`.
    """
    done = status.finished + sum(trial.progress for trial in status.running)
    bar = ProgressBar(total=max(1, status.trials), completed=done, width=max(10, min(60, width - 8)))
    share = Table.grid(padding=(0, 1))
    share.add_row(bar, f"{done / max(1, status.trials):.0%}".replace("%", " %"))
    name = shortened([status.study], max(12, width // 2))[status.study]
    lines = [Text(notice, style="bold")] if notice else []
    head = Text(f"{name}  {finished_words(status)}")
    table = status_table(status, width, max(2, height - (14 if status.warning is None else 17)), cpus, gpus)
    warning = [] if status.warning is None else [Text(f"warning: {status.warning}")]
    return Group(Rule(style="dim"), *lines, head, share, table, *warning)


def _shares(status: Status, cpus: float | None, gpus: float | None) -> str:
    used = [("CPU", status.cpus, cpus), *([("GPU", status.gpus, gpus)] if status.gpus or gpus else [])]
    return ", ".join(
        f"{share:g} {name}{'s' * (share != 1)}" if there is None else f"{share:g} of {there:g} {name}s"
        for name, share, there in used
    )
