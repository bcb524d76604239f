"""The command line: each verb parses, calls and prints; heavy imports happen inside the verb that needs them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ddcal import __version__
from ddcal.config.loading import study_problems
from ddcal.errors import BadInput


class _Verbs(TyperGroup):
    """Runs any verb; turns the user's mistakes into a message and exit code 2, and Ctrl-C into 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Verbs,
    name="ddcal",
    help="Search, train and calibrate networks on distilled datasets, and replay the winner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Replace a value of the study, for example search.trials=4."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ddcal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def validate(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="The study files to check.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check study files and print every mistake in them."""
    reports = [(file, *study_problems(file, overrides or ())) for file in studies]
    for file, study, problems in [] if as_json else reports:
        if study is not None:
            typer.echo(f"{file}: ok ({study.search.trials} trials over {len(study.space)} names)")
        for problem in problems:
            typer.echo(str(problem), err=True)
    if as_json:
        entries = [
            {"file": str(file), "ok": study is not None, "problems": [asdict(problem) for problem in problems]}
            for file, study, problems in reports
        ]
        typer.echo(json.dumps(entries, indent=2))
    if any(study is None for _, study, _ in reports):
        raise typer.Exit(2)


def main() -> None:
    """Run the command line; the entry point of the ``ddcal`` script."""
    app()
