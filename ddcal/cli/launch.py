"""Verbs on a study that is to run, runs, or has stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddcal import collecting
from ddcal.cli.base import Address, AsJson, Debug, Overrides, StudyFile, StudyFolder, TakeOver, app
from ddcal.cli.completion import complete_study
from ddcal.config.checks.notes import constraint_notes, expert_notes, searched_notes, unused_notes, zca_notes
from ddcal.config.checks.searchers import trials_sentence
from ddcal.config.places import is_url
from ddcal.config.reading.loading import read_study, study_problems
from ddcal.config.shipped import study_file
from ddcal.errors import GO_ON, BadInput
from ddcal.pipeline.environment import compile_problems
from ddcal.pipeline.imported import check_imports

if TYPE_CHECKING:
    from rich.console import Console

    from ddcal.config import StudyConfig
    from ddcal.config.problems import Problem
    from ddcal.pipeline.imported import FileReport
    from ddcal.study.record.results import StudyResults, Trial
    from ddcal.study.run.runner import Hooks, Start


@app.command()
def validate(
    studies: Annotated[
        list[Path],
        typer.Argument(
            metavar="STUDY...",
            help="The study files to check, or names of shipped studies.",
            autocompletion=complete_study,
        ),
    ],
    overrides: Overrides = None,
    data: Annotated[bool, typer.Option("--data", help="Look at the files of the data sets too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check study files and print every mistake in them."""
    checked: list[FileReport] = []
    warnings: list[str] = []

    def check_files(study: StudyConfig) -> list[Problem]:
        checked.append(check_imports(study))
        return checked[-1].problems + compile_problems(study)

    reports = [(file, *study_problems(file, overrides or (), check_files)) for file in map(study_file, studies)]
    if data:
        from ddcal.study.run.checks import with_data_problems

        reports = [(file, *with_data_problems(file, study, problems, warnings)) for file, study, problems in reports]
    warnings += (warning for report in checked for warning in report.warnings)
    right = [study for _, study, _ in reports if study is not None]
    for one in right:
        warnings += (*unused_notes(one), *expert_notes(one), *constraint_notes(one))
        warnings += searched_notes(one, overrides or ())
    for warning in dict.fromkeys(warnings):
        typer.echo(f"warning: {warning}", err=True)
    for file, study, problems in [] if as_json else reports:
        if study is not None:
            typer.echo(f"{file}: ok ({trials_sentence(study)})")
            for note in zca_notes(study):
                typer.echo(f"{file}: note: preset of {note}", err=True)
        for problem in problems:
            typer.echo(str(problem), err=True)
    if as_json:
        entries = [
            {
                "file": str(file),
                "ok": study is not None,
                "problems": [asdict(problem) for problem in problems],
                "notes": [] if study is None else zca_notes(study),
            }
            for file, study, problems in reports
        ]
        typer.echo(json.dumps(entries, indent=2))
    if any(study is None for _, study, _ in reports):
        raise typer.Exit(2)


@app.command()
def run(
    file: StudyFile,
    overrides: Overrides = None,
    debug: Debug = False,
    output: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="The output root; the study goes to ROOT/<name>.")
    ] = None,
    address: Address = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="The number of trials, as --set search.trials=N.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The seed of every trial, as --set base.seed=N.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study if it was begun before: for requeues and retries.")
    ] = False,
    take_over: TakeOver = False,
) -> None:
    """Run a study and name its winner."""
    short = {"search.trials": trials, "base.seed": seed}
    extra = [f"{key}={value}" for key, value in short.items() if value is not None]
    study = read_study(study_file(file), [*(overrides or ()), *extra])
    if seed is not None and "seed" in study.space:
        raise BadInput(f"--seed {seed}: this study searches over seeds (space.seed); give --set space.seed=[{seed}]")
    for note in (*constraint_notes(study), *searched_notes(study, overrides or ())):
        typer.echo(f"warning: {note}", err=True)
    begin(study, output, debug=debug, address=address, resume=resume, take_over=take_over)


def begin(
    study: StudyConfig,
    output: Path | None,
    *,
    debug: bool = False,
    address: str | None = None,
    lasting: bool = True,
    resume: bool = False,
    take_over: bool = False,
) -> None:
    """Do what ``ddcal run`` does with a study that was read.

    Args:
        study: The study.
        output: As in `run_study`.
        debug: As in `run_study`.
        address: As in `run_study`.
        lasting: Whether the Ray at ``address`` is still there when the study goes on.
        resume: As in `run_study`.
        take_over: As in `run_study`.
    """
    from ddcal.cli.console import make_console

    console = make_console()
    if resume:
        from ddcal.study.run.places import place_to_resume, tracked_elsewhere

        directory, trials = place_to_resume(study, output, take_over=take_over), study.search.trials
        retold = tracked_elsewhere(study, directory)
        if not retold and is_through(directory, trials, console, fewer=True, take_over=take_over):
            return

    from ddcal.study.run.runner import run_study

    def work(hooks: Hooks) -> StudyResults:
        return run_study(
            study, output=output, debug=debug, address=address, hooks=hooks, resume=resume, take_over=take_over
        )

    _show(console, work, address if lasting else None, debug)


def _show(console: Console, work: Callable[[Hooks], StudyResults], address: str | None, debug: bool) -> None:
    """Do a driver's work on a study, with its progress and its summary on the console.

    Args:
        console: Where to print.
        work: Does the work.
        address: As in `run_study`, for the command that goes on with it.
        debug: As in `run_study`, for the same.

    Raises:
        typer.Exit: with another code than 0 if the study has not all that it should.
    """
    from ddcal.cli.console import print_summary
    from ddcal.cli.progress import StudyProgress

    with collecting.held(), StudyProgress(console, address=address, debug=debug) as progress:
        results = work(collected(with_pictures(progress.hooks), debug=debug))
    print_summary(results, console)
    if results.uncopied is not None:
        typer.echo(results.uncopied, err=True)
        raise typer.Exit(GO_ON)
    if not results.completed:
        raise typer.Exit(1)


def collected(hooks: Hooks, *, debug: bool) -> Hooks:
    """Return the hooks with garbage being collected from where all is imported that a study needs.

    Args:
        hooks: A driver's.
        debug: As in `run_study`.
    """

    def start(there: Start) -> None:
        if debug or there.cpus is not None:
            collecting.go_on()
        if hooks.on_start is not None:
            hooks.on_start(there)

    return replace(hooks, on_start=start)


def with_pictures(hooks: Hooks) -> Hooks:
    """Return the hooks with the drawing of the study's pictures at its end."""
    study: StudyConfig | None = None
    left = 0

    def start(there: Start) -> None:
        nonlocal study, left
        study, left = there.study, there.study.search.trials - there.finished
        if hooks.on_start is not None:
            hooks.on_start(there)

    def finish(trial: Trial) -> None:
        nonlocal left
        left -= 1
        if study is not None and 0 < left < study.search.concurrency:  # CPUs have nothing to do
            from ddcal.analysis.figures.study_figures import prepare_drawing

            prepare_drawing(study)
        if hooks.on_finished is not None:
            hooks.on_finished(trial)

    def draw(results: StudyResults) -> None:
        from ddcal.analysis.figures.study_figures import draw_at_end

        draw_at_end(results)

    return replace(hooks, on_start=start, on_finished=finish, on_end=draw)


@app.command()
def plan(
    file: StudyFile,
    overrides: Overrides = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure a few steps of each kind of stage, to estimate the time.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="The output root, whose store and disk count.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a study would cost; nothing of it is run."""
    study = read_study(study_file(file), overrides or ())
    for note in searched_notes(study, overrides or ()):
        typer.echo(f"warning: {note}", err=True)

    from ddcal.cli.console import make_console
    from ddcal.cli.plan_tables import print_plan, probe_progress
    from ddcal.study.plan.plan import make_plan

    with probe_progress(make_console(stderr=True)) as on_probe:
        planned = make_plan(study, output=output, probe=probe, on_probe=on_probe)
    if as_json:
        typer.echo(json.dumps(asdict(planned), indent=2))
    else:
        print_plan(planned, make_console(), str(file))


@app.command()
def resume(
    directory: StudyFolder,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Extend the study to N trials in all.", min=1)] = None,
    debug: Debug = False,
    address: Address = None,
    take_over: TakeOver = False,
) -> None:
    """Go on with a stopped or killed study."""
    from ddcal.cli.console import make_console

    console = make_console()
    if is_through(directory, trials, console, take_over=take_over):
        return

    from ddcal.study.run.runner import resume_study

    def work(hooks: Hooks) -> StudyResults:
        return resume_study(directory, trials=trials, debug=debug, address=address, hooks=hooks, take_over=take_over)

    _show(console, work, address, debug)


def is_through(
    directory: Path, trials: int | None, console: Console, *, fewer: bool = False, take_over: bool = False
) -> bool:
    """Say so if no trial of a study is left to run, before anything heavy is imported; return whether that is so.

    What S3 lacks of one that is kept there is sent.

    Args:
        directory: The study's folder, or where it would be.
        trials: How many trials it is to have; None for as many as it was begun with.
        console: Where to say it.
        fewer: Whether it may have more trials already, as one that was extended.
        take_over: Whether the scheduler is asked about a driver of another machine.

    Raises:
        typer.Exit: with code 1 if none of its trials is complete.
    """
    from ddcal.cli.console import print_finished
    from ddcal.study.record.ledger import begun
    from ddcal.study.record.results import load_study
    from ddcal.study.record.status import study_status

    there = load_study(directory) if begun(directory) else None
    if there is None:
        return False
    more = 0 if trials is None else trials - there.study.search.trials
    if more > 0 or (more < 0 and not fewer):
        return False
    status = study_status(directory, there)
    if status.through and there.study.storage.on_s3:
        from ddcal.study.remote.output import send_rest

        send_rest(there.study, directory, take_over=take_over)
        there = load_study(directory)
        status = study_status(directory, there)
    if not status.through:
        return False
    print_finished(there, status, console)
    if not there.completed:
        raise typer.Exit(1)
    return True


@app.command()
def status(directory: StudyFolder, as_json: AsJson = False) -> None:
    """Tell how far a study is."""
    from ddcal.cli.console import make_console, print_status
    from ddcal.study.record.status import study_status

    report = study_status(directory)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        print_status(report, make_console())


@app.command()
def fetch(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|URL", help="A study file that names an s3:// storage.output, or such a URL with /NAME."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="The output root; the study goes to ROOT/<name>.")
    ] = None,
) -> None:
    """Bring a study that is kept on S3 to this machine, to look at it."""
    from ddcal.study.remote.output import fetch_study

    given = None if is_url(study) else read_study(study_file(Path(study)))
    directory, said = fetch_study(study if given is None else given, output)
    typer.echo(f"{directory}: {said}")


@app.command()
def stop(directory: StudyFolder) -> None:
    """Stop a study that runs on this machine: its trials save their state, as after Ctrl-C."""
    from ddcal.study.record.ledger import begun, no_study
    from ddcal.study.record.lock import stop_driver

    stopped = stop_driver(directory)
    if not stopped and not begun(directory):
        raise no_study(directory)
    typer.echo(f"{directory} {'has stopped: `ddcal resume` goes on with it' if stopped else 'does not run'}")


@app.command()
def sync(directory: StudyFolder) -> None:
    """Send to MLflow what it does not have yet."""
    from ddcal.study.mlflow.sync import sync_study

    typer.echo(sync_study(directory))
