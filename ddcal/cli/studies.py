"""Verbs on the studies that come with ddcal."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ddcal.cli.base import AsJson, Verbs, app
from ddcal.config.shipped import shipped_studies, shipped_study
from ddcal.errors import BadInput

studies_app = typer.Typer(cls=Verbs, help="List the studies that come with ddcal.", rich_markup_mode=None)
app.add_typer(studies_app, name="studies")


@studies_app.callback(invoke_without_command=True)
def list_studies(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the studies that come with ddcal; `ddcal run NAME` runs one."""
    if ctx.invoked_subcommand is not None:
        return
    studies = shipped_studies()
    if as_json:
        typer.echo(json.dumps([asdict(study) | {"path": str(study.path)} for study in studies], indent=2))
        return
    width = max(len(study.name) for study in studies)
    for study in studies:
        typer.echo(f"{study.name:{width}}  {study.about}")
    typer.echo("\nddcal run NAME runs one; ddcal studies copy NAME puts its file here, to edit")


@studies_app.command("copy")
def copy_study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study's name, from `ddcal studies`.")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="The new file; default: NAME.yaml here.")] = None,
) -> None:
    """Put the file of a study here, to edit."""
    study = shipped_study(name)
    target = to or Path(study.path.name)
    try:
        with target.open("x", encoding="utf-8") as stream:  # never over a file that somebody has edited
            stream.write(study.path.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise BadInput(f"{target} exists: remove it, or name another file with --to") from error
    except OSError as error:
        raise BadInput(f"--to {target}: cannot be written: {error.strerror or error}") from error
    typer.echo(f"{target}    next: ddcal validate {shlex.quote(str(target))}")
