"""Verbs that look at what a study has found."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ddcal.cli.base import Address, AsJson, Debug, StudyFolder, app
from ddcal.cli.completion import complete_folder
from ddcal.cli.launch import with_pictures
from ddcal.errors import GO_ON, one_line


@app.command()
def pareto(
    directory: StudyFolder,
    to: Annotated[
        Path | None, typer.Option(metavar="PNG", help="The picture; default: DIR/figures/pareto.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the Pareto front and draw it."""
    from ddcal.analysis.figures.study_figures import FIGURES, plot_pareto
    from ddcal.cli.console import make_console, pareto_table
    from ddcal.study.record.chance import chance_warning
    from ddcal.study.record.results import PARETO, load_study, trial_rows
    from ddcal.study.record.rights import as_access_says, or_elsewhere, where_allowed
    from ddcal.study.record.status import write_tables

    results = load_study(directory)
    with as_access_says(results.study.storage.access), or_elsewhere("--to"):
        made = [directory / PARETO] if where_allowed(partial(write_tables, results)) else []
        if to is not None or made:
            made.insert(0, plot_pareto(results, to or directory / FIGURES / "pareto.png"))
    if as_json:
        typer.echo(json.dumps(trial_rows(results.study, results.pareto), indent=2))
    else:
        make_console().print(pareto_table(results))
        if made:
            typer.echo("  ".join(map(str, made)))
    if not made:
        typer.echo(f"{directory} may not be written: there is no new picture; --to PNG draws it elsewhere", err=True)
    if results.best is not None and (warning := chance_warning(results.best)):
        typer.echo(f"warning: {warning}", err=True)


@app.command()
def plots(
    directory: StudyFolder,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the pictures go; default: DIR/figures.")
    ] = None,
) -> None:
    """Draw a study: front, history, parallel coordinates, importances."""
    from ddcal.analysis.figures.study_figures import draw_study
    from ddcal.study.record.results import load_study
    from ddcal.study.record.rights import as_access_says, or_elsewhere

    results = load_study(directory)
    with as_access_says(results.study.storage.access), or_elsewhere("--to"):
        pictures = draw_study(results, to)
    for picture in pictures:
        typer.echo(picture)


@app.command()
def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Folders of studies, or output roots with all their studies.",
            autocompletion=complete_folder,
        ),
    ],
    to: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the Pareto fronts into one picture.")] = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table, one row a study.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put studies beside each other."""
    from ddcal.analysis.comparison import compare_studies, find_studies, shown_facts, write_comparison
    from ddcal.analysis.figures.comparison_figure import plot_fronts
    from ddcal.cli.console import make_console, studies_table

    studies = find_studies(directories)
    found = compare_studies(studies)
    picture = None if to is None else plot_fronts(studies, list(found.facts), to)
    if as_csv is not None:
        write_comparison(found, as_csv)
    if as_json:
        typer.echo(json.dumps({"studies": found.facts, "warnings": found.warnings}, indent=2))
    else:
        make_console().print(studies_table(shown_facts(found)))
    for warning in found.warnings:
        typer.echo(f"not comparable: {one_line(warning)}", err=True)
    for written in filter(None, (picture, as_csv)):
        typer.echo(str(written), err=as_json)


@app.command()
def importance(directory: StudyFolder, as_json: AsJson = False) -> None:
    """Tell which searched names matter."""
    from ddcal.cli.console import importance_table, make_console
    from ddcal.study.record.results import load_study
    from ddcal.study.search.importance import caution, importances

    found = importances(load_study(directory))
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        make_console().print(importance_table(found))
        note = caution(found)
        if note is not None:
            typer.echo(note, err=True)


@app.command()
def confirm(
    directory: StudyFolder,
    top: Annotated[int, typer.Option(metavar="K", min=1, help="How many leaders, by val/nll.")] = 3,
    seeds: Annotated[int, typer.Option(metavar="N", help="How many fresh seeds each.")] = 5,
    debug: Debug = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Run the leaders of a study on fresh seeds."""
    from ddcal.study.record.results import load_study

    results = load_study(directory)  # before anything heavy is imported: the folder may be no study's

    from ddcal.cli.console import make_console, print_confirmation
    from ddcal.cli.progress import StudyProgress
    from ddcal.study.run.confirm import MIN_SEEDS, NotSentError, confirmations, leading_trials
    from ddcal.study.run.confirm import confirm as confirm_leaders

    console = make_console(stderr=as_json)
    for earlier in confirmations(results):
        console.print(f"there already: {earlier.study.name}, {earlier.study.description}", markup=False)
    command = ["ddcal", "confirm", str(directory), "--top", str(top), "--seeds", str(seeds)]
    not_sent: NotSentError | None = None
    with StudyProgress(console, command=command, address=address, debug=debug) as progress:
        try:
            found = confirm_leaders(
                results,
                top=top,
                seeds=seeds,
                debug=debug,
                address=address,
                hooks=with_pictures(progress.hooks),
            )
        except NotSentError as error:
            found, not_sent = error.found, error
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    elif found:
        print_confirmation(found, load_study(directory), console)
    measured = {one.trial_key for one in found}
    for leader in leading_trials(results, top):
        if leader.trial_key not in measured:
            typer.echo(f"{leader.trial_key}: fewer than {MIN_SEEDS} of its seeds finished", err=True)
    if not_sent is not None:
        typer.echo(not_sent, err=True)
        raise typer.Exit(GO_ON)
    if not found:
        raise typer.Exit(1)


@app.command()
def ui(
    directory: StudyFolder,
    port: Annotated[int, typer.Option(metavar="PORT", help="The port on 127.0.0.1.")] = 5000,
) -> None:
    """Show a study in MLflow's UI on this machine."""
    from ddcal.study.mlflow.ui import serve

    serve(directory, port, typer.echo)
