"""Verbs for the schedulers of clusters: writing and submitting a job, and what its tasks run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ddcal.cli.base import Overrides, StudyFile, app
from ddcal.config.reading.loading import read_study
from ddcal.config.shipped import study_file

jobs = typer.Typer(help="Launch a study as a job of a cluster's scheduler.", no_args_is_help=True)
app.add_typer(jobs, name="launch")

Output = Annotated[
    Path | None, typer.Option(metavar="ROOT", help="The output root, on a file system that all nodes see.")
]


@jobs.command()
def slurm(
    file: StudyFile,
    output: Output = None,
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs on each node.")] = 8,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs on each node.")] = 0,
    time: Annotated[str, typer.Option(metavar="LIMIT", help="The time limit, as sbatch takes it.")] = "8:00:00",
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="A further option of sbatch: --sbatch=--account=lab")
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the job file; submit nothing.")] = False,
) -> None:
    """Write a study's SLURM job file and submit it."""
    study = read_study(study_file(file))

    from ddcal.study.slurm.submit import job_file, left_idle, submit

    if warning := left_idle(study, nodes, cpus, gpus):
        typer.echo(f"warning: {warning}", err=True)

    root = (Path(study.storage.root) if output is None else output).absolute()
    options: dict[str, str | int | None] = {"nodes": nodes, "cpus-per-task": cpus, "gpus-per-node": gpus, "time": time}
    given = str(file.absolute()) if file.exists() else str(file)
    text = job_file(given, study.name, root, options, more=sbatch or ())
    if print_only:
        typer.echo(text, nl=False)
        return
    root.mkdir(parents=True, exist_ok=True)
    written = root / f"{study.name}.sbatch"
    written.write_text(text)
    typer.echo(f"{submit(written)} ({written})")
    typer.echo(f"ddcal status {shlex.quote(str(root / study.name))}")


@app.command(hidden=True)
def slurm_task(
    file: StudyFile,
    overrides: Overrides = None,
    output: Output = None,
) -> None:
    """Do what a task of a SLURM job does: run the study, or give this node to it."""
    study = read_study(study_file(file), overrides or ())

    from ddcal.cli.launch import begin
    from ddcal.study.run.interrupt import interruptible
    from ddcal.study.slurm.task import Task, give_node, ray_head, wait_for_nodes

    root = Path(study.storage.root) if output is None else output
    task = Task.here(root)
    if task.rank:
        give_node(task)
        return
    with interruptible(), ray_head(task) as address:
        from ddcal.study.run.ray_executor import ray_runtime

        with ray_runtime(address) as ray:
            there = wait_for_nodes(task, ray)
            if there < task.tasks:
                typer.echo(f"warning: {there} of {task.tasks} nodes have joined", err=True)
            begin(study, root, address=address, lasting=False, resume=True, take_over=True)
