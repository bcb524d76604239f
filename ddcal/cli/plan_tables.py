"""A plan as a person reads it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ddcal.cli.console import print_command
from ddcal.cli.sheets import Sheet
from ddcal.pipeline.durations import duration
from ddcal.study.plan.plan import Plan

if TYPE_CHECKING:
    from ddcal.study.plan.settings import Setting
    from ddcal.study.plan.time import OnProbe, TimeEstimate


@contextmanager
def probe_progress(console: Console) -> Iterator[OnProbe]:
    """Yield a callback that shows what is being measured: a status line on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield lambda done, of, what: console.print(f"measuring {done + 1}/{of}  {what}", markup=False)
        return
    with console.status("measuring") as status:
        yield lambda done, of, what: status.update(f"measuring {done + 1}/{of}  {what}")


def print_plan(plan: Plan, console: Console, study_file: str) -> None:
    """Print a plan: settings, stages, disk, packing, time, warnings."""
    console.print(f"{plan.study}: {plan.trials} trials; nothing was run and nothing written", markup=False)
    console.print("\nsettings (* a preset of the backbone or derived)", markup=False)
    for note in plan.notes:
        console.print(f"  preset of {note}", markup=False)
    for line in setting_lines(plan.settings):
        console.print(line, markup=False, soft_wrap=not console.is_terminal)
    console.print("")
    console.print(_stage_table(plan))
    console.print(f"{'exact' if plan.exact else 'expected'}: {plan.basis}\n", markup=False)
    console.print(_disk_table(plan))
    console.print("")
    console.print(_packing_table(plan))
    if any(group.gpu == "auto" for group in plan.packing):
        console.print("gpu auto: the first trial of each group measures how many share a GPU; one is counted here")
    console.print("")
    if plan.time is None:
        console.print("time: not estimated, the store knows too few stages of these kinds", markup=False)
        command = f"ddcal plan {shlex.quote(str(study_file))} --probe"
        print_command("to measure a few steps of each on this machine", command, console)
    else:
        _print_time(plan.time, console)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False)


def setting_lines(settings: list[Setting]) -> Iterator[str]:
    """Yield a line a section of a trial: ``distill   ipc 10, iterations 1000*``."""
    sections: dict[str, dict[str, list[str]]] = {}
    for one in settings:
        section, _, name = one.name.partition(".")
        inherited = name.startswith("network.") and one.source != "study"
        if inherited and ".network.name=" not in one.where:  # as the trial's network says
            continue
        mark = "*" if one.source == "preset" else ""
        where = f" ({one.where.rpartition('.')[2]})" if one.where else ""
        shown = f"{_value(one.value)}{mark}{where}"
        sections.setdefault(section, {}).setdefault(name, []).append(shown)
    for section, names in sections.items():
        text = ", ".join(f"{name} {' | '.join(values)}".strip() for name, values in names.items())
        yield f"  {section:<10} {text}"


def _stage_table(plan: Plan) -> Sheet:
    columns = ("stage", "expected", "in the store", "to compute", "at most")
    rows = [
        [one.stage, *map(str, (one.expected, one.in_store, one.to_compute, one.worst_to_compute))]
        for one in plan.stages
    ]
    return Sheet("different stages", columns, rows, columns[1:], packed=True)


def _disk_table(plan: Plan) -> Sheet:
    columns = ("what", "expected", "at most", "where", "free there")
    rows = [
        [use.what, _size(use.expected), _size(use.worst), use.place, _size(plan.free[use.place])] for use in plan.disk
    ]
    total = sum(use.worst for use in plan.disk)
    return Sheet(f"disk: at most {_size(total)}", columns, rows, ("expected", "at most", "free there"), packed=True)


def _packing_table(plan: Plan) -> Sheet:
    machine = f"{plan.machine.cpus} CPUs, {plan.machine.gpus} GPUs"
    columns = ("backbone", "ipc", "network", "data", "trials", "cpu", "threads", "gpu", "at a time", "limited by")
    rows = []
    for one in plan.packing:
        gpu = one.gpu if isinstance(one.gpu, str) else f"{one.gpu:g}"
        cells = (one.ipc, one.network, one.dataset, one.trials, f"{one.cpu:g}", one.threads, gpu)
        rows.append([one.backbone, *map(str, cells), str(one.at_a_time), one.limited_by])
    right = ("ipc", "trials", "cpu", "threads", "at a time")
    return Sheet(f"packing on this machine ({machine})", columns, rows, right, packed=True)


def _print_time(time: TimeEstimate, console: Console) -> None:
    measured = any(row.gpu_bytes is not None for row in time.kinds)
    source = "measured on this machine" if time.source == "probe" else "as recorded in the store"
    columns = ["stage", "what", "a step is", "seconds a step", "steps", "stages", "seconds"]
    columns += ["GPU memory"] if measured else []
    rows = []
    for row in time.kinds:
        cells = [f"{row.seconds_a_step:.3g}", str(row.steps), str(row.stages), f"{row.seconds:.1f}"]
        memory = [] if not measured else [_size(row.gpu_bytes) if row.gpu_bytes is not None else ""]
        rows.append([row.stage, row.what, row.step, *cells, *memory])
    table = Sheet(f"time, {source}", columns, rows, columns[3:], heads=2, packed=True)
    console.print(table)
    trials = f"{time.at_a_time} trial{'s' * (time.at_a_time != 1)} at a time"
    console.print(
        f"about {duration(time.expected_seconds)} with {trials}, at most {duration(time.worst_seconds)} "
        f"({duration(time.work_seconds)} of computing one after another)"
    )


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.0f} kB" if count else "0"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
