"""The verb that says whether a study's folder is whole."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from ddcal.cli.base import AsJson, StudyFolder, app
from ddcal.errors import one_line


@app.command()
def verify(
    directory: StudyFolder,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Build anew what can be; what was there is kept beside it where it was unique."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether a study's folder is whole."""
    from ddcal.study.record.verify import verify_study

    parts = verify_study(directory, repair=repair)
    if as_json:
        typer.echo(json.dumps([asdict(part) | {"whole": part.whole} for part in parts], indent=2))
    else:
        for part in parts:
            said = f"{part.name}: {part.fault or 'whole'}{f': {part.mended}' if part.mended else ''}"
            typer.echo(one_line(said))  # it repeats names that may be anybody's
    if any(part.mendable and part.mended is None for part in parts):
        typer.echo(f"what can be mended:  ddcal verify {shlex.quote(str(directory))} --repair", err=True)
    if not all(part.whole for part in parts):
        raise typer.Exit(1)
