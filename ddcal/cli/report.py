"""Verbs that make pages of tables and figures."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddcal.cli.base import Address, Debug, StudyFolder, Verbs, app
from ddcal.errors import BadInput

if TYPE_CHECKING:
    from ddcal.analysis.report.paper import PaperReport
    from ddcal.analysis.scoreboard.board import Scoreboard
    from ddcal.study.record.status import Status

report_app = typer.Typer(
    cls=Verbs, help="Write a page of tables and figures.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(report_app, name="report")

Output = Annotated[Path, typer.Option(metavar="DIR", help="The page, its studies and their store.")]
Scale = Annotated[str, typer.Option(help="cpu: reduced, for 2 CPU cores; gpu: the published recipes.")]
Datasets = Annotated[str, typer.Option(metavar="NAME,…", help="Datasets, separated by commas.")]
Plan = Annotated[bool, typer.Option("--plan", help="Measure a few steps and tell what it would cost; nothing is run.")]
PlanAsJson = Annotated[bool, typer.Option("--json", help="With --plan: print JSON instead of text.")]
Studies = Annotated[Path | None, typer.Option(metavar="DIR", help="The studies of the report; default: ddcal's own.")]
PageFolder = Annotated[Path | None, typer.Option(metavar="OUT", help="Where the page goes; default: DIR/report.")]


@report_app.command("paper")
def report_paper(
    output: Output = Path("paper"),
    scale: Scale = "cpu",
    datasets: Datasets = "digits,fashion-mnist,cifar10",
    plan: Plan = False,
    extra: Annotated[
        bool, typer.Option("--extra", help="Also run what the scale leaves out as dear: other losses at ipc 50.")
    ] = False,
    studies: Studies = None,
    debug: Debug = False,
    address: Address = None,
    as_json: PlanAsJson = False,
) -> None:
    """Run what is missing of the paper's studies and write its tables and figures."""
    from ddcal.analysis.report.studies import paper_studies, studies_folder

    _check_json(as_json, plan)
    wanted = paper_studies(scale, _names(datasets), studies_folder(studies), extra)

    from ddcal.cli.console import make_console

    if plan:
        from ddcal.cli.report_plan import plan_report, print_plan

        console = make_console(stderr=True)
        print_plan(plan_report(wanted, output, console), make_console(), as_json)
        return

    from ddcal.analysis.report.paper import paper_report
    from ddcal.analysis.report.progress import ReportProgress

    progress = ReportProgress(make_console(), shlex.join(["ddcal", *sys.argv[1:]]))
    report = paper_report(wanted, output, scale, progress, debug=debug, address=address)
    _say_where(report)


@report_app.command("scoreboard")
def report_scoreboard(
    output: Output = Path("scoreboard"),
    scale: Scale = "cpu",
    datasets: Datasets = "digits,cifar10",
    plan: Plan = False,
    sets: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Sets of your own, as in sets.yaml; may be repeated.")
    ] = None,
    studies: Studies = None,
    debug: Debug = False,
    address: Address = None,
    as_json: PlanAsJson = False,
) -> None:
    """Compare sets under hard and soft labels, by recipes chosen on val; run what is missing."""
    from ddcal.analysis.scoreboard.studies import board_folder, boards

    _check_json(as_json, plan)
    wanted = boards(scale, _names(datasets), board_folder(studies), sets or ())

    from ddcal.cli.console import make_console

    if plan:
        from ddcal.analysis.scoreboard.board import planned_studies
        from ddcal.cli.report_plan import plan_report, print_plan

        console = make_console(stderr=True)
        todo = planned_studies(wanted, output.absolute())
        print_plan(plan_report(todo, output, console), make_console(), as_json)
        return

    from ddcal.analysis.report.progress import ReportProgress
    from ddcal.analysis.scoreboard.board import scoreboard

    progress = ReportProgress(make_console(), shlex.join(["ddcal", *sys.argv[1:]]))
    made = scoreboard(wanted, output, scale, progress, debug=debug, address=address)
    _say_where(made)


def _check_json(as_json: bool, plan: bool) -> None:
    if as_json and not plan:
        raise BadInput("--json goes with --plan alone: a report is a page")


def _names(datasets: str) -> list[str]:
    return [name.strip() for name in datasets.split(",") if name.strip()]


def _say_where(made: PaperReport | Scoreboard) -> None:
    """Say where the page is and what it lacks.

    Raises:
        typer.Exit: with code 1 if no trial came to its end.
    """
    typer.echo(str(made.page))
    if made.gaps:
        typer.echo(f"{made.gaps} number{'s are' if made.gaps > 1 else ' is'} missing; the page says why", err=True)
    if not made.completed:
        typer.echo("no trial came to its end", err=True)
        raise typer.Exit(1)


@report_app.command("study")
def report_study(
    directory: StudyFolder,
    output: PageFolder = None,
) -> None:
    """Write the page of a study; nothing is run."""
    from ddcal.study.record.results import load_study

    results = load_study(directory)  # before anything heavy is imported: the folder may be no study's

    from ddcal.analysis.report.study_page import study_report

    typer.echo(str(study_report(results, output)))


@app.command()
def watch(
    directory: StudyFolder,
    output: PageFolder = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=1.0, help="Between two pages, at least.")] = 10.0,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on 127.0.0.1 too, until Ctrl-C, for a browser elsewhere.")
    ] = False,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="With --serve; 0: a free one.")] = 0,
) -> None:
    """Write the page of a study again and again while it runs."""
    from ddcal.study.record.results import load_study
    from ddcal.study.record.status import status_line
    from ddcal.study.run.interrupt import interruptible

    load_study(directory)  # before anything heavy is imported: the folder may be no study's

    from ddcal.analysis.report.watch import page_of, served, watch_study
    from ddcal.cli.console import make_console

    console = make_console()

    def say(status: Status) -> None:  # a terminal breaks lines between words, a pipe nowhere
        console.print(status_line(status), soft_wrap=not console.is_terminal)

    with served(directory, output, port) if serve else nullcontext(page_of(directory, output).as_uri()) as address:
        typer.echo(address)
        with interruptible():  # SIGTERM ends it as Ctrl-C does: the page that is left does not reload itself
            status = watch_study(directory, output, every=every, say=say)
        typer.echo(f"{status.state}: the page stays as it is")
        if serve:
            typer.echo("Ctrl-C ends the server")
            signal.pause()
