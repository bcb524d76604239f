"""Verbs that make pages of tables and figures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ddcal.cli.base import Address, AsJson, Debug, StudyFolder, Verbs, app

report_app = typer.Typer(
    cls=Verbs, help="Write a page of tables and figures.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(report_app, name="report")


@report_app.command("paper")
def report_paper(
    output: Annotated[Path, typer.Option(metavar="DIR", help="The page, its studies and their store.")] = Path("paper"),
    scale: Annotated[str, typer.Option(help="cpu: reduced, for 2 CPU cores; gpu: the published recipes.")] = "cpu",
    datasets: Annotated[
        str, typer.Option(metavar="NAME,…", help="Datasets, separated by commas.")
    ] = "digits,fashion-mnist,cifar10",
    plan: Annotated[
        bool, typer.Option("--plan", help="Measure a few steps and tell what it would cost; nothing is run.")
    ] = False,
    extra: Annotated[
        bool, typer.Option("--extra", help="Also run what the scale leaves out as dear: other losses at ipc 50.")
    ] = False,
    studies: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The paper's studies; default: ddcal's own.")
    ] = None,
    debug: Debug = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Run what is missing of the paper's studies and write its tables and figures."""
    from ddcal.analysis.report.studies import paper_studies, studies_folder

    names = [name.strip() for name in datasets.split(",") if name.strip()]
    wanted = paper_studies(scale, names, studies_folder(studies), extra)

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
    typer.echo(str(report.page))
    if report.gaps:
        typer.echo(f"{report.gaps} numbers are missing; the page says why", err=True)


@report_app.command("study")
def report_study(
    directory: StudyFolder,
    output: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Where the page goes; default: DIR/report.")
    ] = None,
) -> None:
    """Write the page of a study; nothing is run."""
    from ddcal.study.record.results import load_study

    results = load_study(directory)  # before anything heavy is imported: the folder may be no study's

    from ddcal.analysis.report.study_page import study_report

    typer.echo(str(study_report(results, output)))
