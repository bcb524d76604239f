"""Verbs that hand the winner on."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ddcal.cli.base import AsJson, StudyFolder, app
from ddcal.errors import BadInput, one_line


@app.command()
def export(
    directory: StudyFolder,
    to: Annotated[Path, typer.Option(metavar="OUT", help="The new folder to write.")],
    trial: Annotated[
        str | None, typer.Option(metavar="ID", help="A trial's number or key; default: the winner.")
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Export the whole Pareto front, one folder a trial.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="FORMAT",
            help="Put the calibrated model into it: mlflow, torch, onnx, or several, separated by commas.",
        ),
    ] = None,
    network: Annotated[
        int | None, typer.Option("--network", metavar="N", help="Which network the model is, from 0; default: 0.")
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Register it as a version of this model in the study's MLflow, too."),
    ] = None,
) -> None:
    """Write the winner as a folder that replays."""
    from ddcal.config.own import replay_with
    from ddcal.study.export.export import export_trial, exported_already
    from ddcal.study.export.models import check_model, model_request
    from ddcal.study.record.chance import chance_warning
    from ddcal.study.record.results import load_study

    if trial is not None and pareto:
        raise BadInput("--trial and --pareto exclude each other: give one of them")
    models = model_request(model, network)
    results = load_study(directory)
    if register is not None:
        from ddcal.study.export.registry import check_registry

        check_registry(results, register)
    chosen = results.pareto if pareto else [results.trial(trial) if trial is not None else results.best]
    if not chosen or chosen[0] is None:
        typer.echo(f"{directory}: {one_line(results.no_winner)}; --trial ID exports one all the same", err=True)
        raise typer.Exit(1)
    for one in chosen:
        if models is not None and one is not None:
            check_model(results, one, models)
    for one in chosen:
        assert one is not None
        target = to / one.trial_key if pareto else to
        if register is None or not exported_already(results, one, target, models):
            target = export_trial(results, one, target, models)
            place = shlex.quote(str(to / one.trial_key if pareto else to))
            typer.echo(f"{one.trial_key} -> {target}    next: {replay_with(one.config)} {place}")
        if warning := chance_warning(one):
            typer.echo(f"warning: {warning}", err=True)
        if register is not None:
            from ddcal.study.export.registry import register_export

            version, new = register_export(results, one, target, register)
            typer.echo(f"{one.trial_key} is version {version} of {register}{'' if new else ', as before'}")


@app.command()
def replay(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="An export's folder.")],
    use_store: Annotated[
        str | None, typer.Option("--use-store", metavar="STORE", help="Take finished stages from this artefact store.")
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option("--data-root", metavar="PLACE", help="Where the run's data lies here; default: $DDCAL_DATA."),
    ] = None,
    ignore_versions: Annotated[
        bool, typer.Option("--ignore-versions", help="Go on although numeric packages have other versions.")
    ] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Call the data function that the export names, if it names one.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="List every metric, also those that are equal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an export again and compare everything."""
    from ddcal.study.export.layout import read_run

    read_run(folder)  # before torch is imported: the folder may be no export, or edited

    from ddcal.cli.console import comparison_table, make_console
    from ddcal.study.export.replay import replay as replay_run

    comparisons = replay_run(
        folder, store=use_store, data_root=data_root, ignore_versions=ignore_versions, trust_code=trust_code
    )
    compared = [item for item in comparisons if item.compared]
    different = [item for item in compared if not item.same]
    if as_json:
        typer.echo(
            json.dumps(
                [
                    asdict(item) | {"same": item.same if item.compared else None, "compared": item.compared}
                    for item in comparisons
                ],
                indent=2,
            )
        )
    else:
        console = make_console()
        console.print(comparison_table(comparisons, everything))
        console.print(f"{len(compared) - len(different)} of {len(compared)} metrics and artefacts equal")
        if left := len(comparisons) - len(compared):
            console.print(f"{left} artefacts not compared: another GPU model, or other versions, give other last bits")
    if different:
        typer.echo("different: " + ", ".join(item.name for item in different), err=True)
        raise typer.Exit(1)
