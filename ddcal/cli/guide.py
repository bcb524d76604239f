"""The guide in the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ddcal.cli.base import app
from ddcal.config.problems import suggestion
from ddcal.errors import BadInput

FOLDER = Path(__file__).absolute().parents[1] / "guide"

ORDER = (
    *("own-data", "own-backbone", "own-components", "one-gpu", "cluster", "slurm", "kubernetes", "s3"),
    *("results", "scoreboard", "notebook"),
    *("settings", "stages", "distillation", "training", "soft-labels", "calibrations", "metrics", "search", "plan"),
    *("stopping", "speed", "export", "security", "method"),
)
"""Tutorials first, then reference."""


@app.command()
def guide(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="A topic; default: list them.")] = None,
) -> None:
    """Read the guide."""
    topics = guide_topics()
    if topic is None:
        width = max(map(len, topics))
        for name, text in topics.items():
            typer.echo(f"{name:{width}}  {about(text)}")
        typer.echo("\nddcal guide TOPIC shows one")
        return
    if topic not in topics:
        raise BadInput(f"{topic}: the guide has no such topic{suggestion(topic, topics)}; it has {', '.join(topics)}")
    text = topics[topic]
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    os.environ["LESS"] = f"-R {os.environ.get('LESS', '-FX')}"  # without -R `less` spells escape codes out
    with console.pager(styles=True):
        console.print(Markdown(text))


def guide_topics() -> dict[str, str]:
    """Return topic → its page in Markdown, tutorials first."""
    from ddcal.cli.settings_page import settings_page  # every model of the configs

    pages = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    pages["settings"] = settings_page()
    return {name: pages[name] for name in (*ORDER, *sorted(pages.keys() - set(ORDER))) if name in pages}


def about(page: str) -> str:
    """Return the first sentence of a page."""
    return " ".join(page.split("\n\n")[1].split()).partition(". ")[0].rstrip(".") + "."
