"""The application that the verbs belong to, and the arguments that several of them share."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ddcal import __version__
from ddcal.cli.completion import complete_folder, complete_setting, complete_study
from ddcal.errors import (
    FULL,
    LOST,
    REFUSED,
    BadInput,
    DivergedError,
    StoreError,
    Terminated,
    TrackingError,
    cure_of,
    disk_error,
    memory_error,
)

WRONG_KIND = {
    errno.EISDIR: "is a folder: give a file",
    errno.EEXIST: "is a file: give a folder",
    errno.ENOTDIR: "lies below a file: give a folder",
}
"""What is said of a place that cannot be what it is to be."""


class Verbs(TyperGroup):
    """Runs any verb; turns the user's mistakes into a message and exit code 2, Ctrl-C into 130, SIGTERM into 75."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that was given."""
        try:
            return super().invoke(ctx)
        except BadInput as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except (StoreError, DivergedError, TrackingError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
        except (OSError, ImportError, MemoryError, RuntimeError) as error:
            message, code = _of_this_machine(error)
            if message is None:
                raise
            typer.echo(message, err=True)
            raise typer.Exit(code) from None
        except Terminated as error:
            typer.echo(f"stopped by {signal.Signals(error.signum).name}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


def _of_this_machine(error: Exception) -> tuple[str | None, int]:
    """Return one sentence on an error of this machine or of a place that was given, and the exit code; else None."""
    short = memory_error(error)
    if short is not None:
        said = str(short).strip().splitlines() or [type(short).__name__]
        cure = "raise the limit (`ulimit -v unlimited`, or the job's memory) or end other programs"
        return f"this machine gives the program no memory ({said[0][:200]}): {cure}", 2
    found = disk_error(error, FULL | REFUSED | LOST)
    if found is not None and isinstance(error, OSError):
        return f"{found.filename or 'a file'}: {found.strerror}; {cure_of(found)}", 1
    if isinstance(error, OSError) and error.filename is not None and error.errno in WRONG_KIND:
        return f"{error.filename} {WRONG_KIND[error.errno]}", 2
    return None, 1


app = typer.Typer(
    cls=Verbs,
    name="ddcal",
    help="Search, train and calibrate networks on distilled datasets, and replay the winner.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Replace a value of the study, for example search.trials=4.",
        autocompletion=complete_setting,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over", help="Go on also where SLURM or Kubernetes proves that the former driver's job or pod has ended."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Run the trials one after another in this process, without Ray.")]
Address = Annotated[
    str | None, typer.Option(metavar="ADDR", help="A Ray cluster's address; default: Ray on this machine.")
]
StudyFile = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY",
        help="A study file, or the name of a shipped study (see `ddcal studies`).",
        autocompletion=complete_study,
    ),
]
StudyFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="A study's folder, for example runs/quickstart.", autocompletion=complete_folder
    ),
]


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
