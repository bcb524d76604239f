"""An MLflow database that was moved or copied with its output root points to the artefacts beside it again.

MLflow keeps the absolute address of the artefacts in every experiment, run and model, and has no call that changes one:
they are given when these are created. So they are replaced in the database itself, which is a file that ddcal has made:
the beginning of one or two columns in each of four tables, all in one transaction.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ddcal.study.mlflow.client import ARTIFACTS, sqlite_path

logger = logging.getLogger(__name__)

ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Tables and columns of MLflow's database that hold addresses of artefacts."""

BUSY_SECONDS = 60.0


def bring_home(uri: str, root: Path) -> None:
    """Make a database in ``root`` point to ``root/mlartifacts`` where it points to a root before a move or copy.

    Only a database that lies in ``root`` itself is touched: one elsewhere may serve several roots.

    Args:
        uri: The tracking URI.
        root: The output root, absolute.

    Raises:
        sqlite3.Error: if the database cannot be read or written.
    """
    path = sqlite_path(uri)
    if path is None or not path.is_file() or os.path.realpath(path.parent) != os.path.realpath(root):
        return
    home = root / ARTIFACTS
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
        columns = {table: _columns(database, table) for table in ADDRESSES}
        if "artifact_location" not in columns["experiments"]:  # nothing is in it yet
            return
        locations = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        former = {place for (location,) in locations if (place := _artifacts_of(location)) is not None}
        moved = [place for place in former if os.path.realpath(place) != os.path.realpath(home)]
        if not moved:
            return
        with database:  # one transaction
            for place in moved:
                for table, names in ADDRESSES.items():
                    for name in columns[table].intersection(names):
                        _replace(database, table, name, place.as_uri(), home.as_uri())
    logger.info("MLflow's database %s was moved or copied: its artefacts are those in %s now", path, home)


def strays(location: str | None, root: Path) -> bool:
    """Return whether an experiment's artefacts would go to another output root, one that is not there any more.

    Args:
        location: The experiment's artifact location.
        root: The output root.
    """
    place = _artifacts_of(location)
    return place is not None and os.path.realpath(place.parent) != os.path.realpath(root) and not place.parent.exists()


def _artifacts_of(location: str | None) -> Path | None:
    """Return the folder ``mlartifacts`` in which an experiment's artefacts lie; None if they lie elsewhere."""
    parts = urlsplit(location or "")
    if parts.scheme != "file":
        return None
    return next((path for path in Path(unquote(parts.path)).parents if path.name == ARTIFACTS), None)


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def _replace(database: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    database.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
        (f"{new}/", len(old) + 2, len(old) + 1, f"{old}/"),
    )
