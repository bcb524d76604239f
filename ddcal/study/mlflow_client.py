"""How ddcal speaks to MLflow: the client, a study's tracking URI, a database that is whole, and what is a refusal."""

from __future__ import annotations

import logging
import os
import uuid
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig

SQLITE = "sqlite:///"
REFUSALS = (400, 404, 409)
"""HTTP statuses of such a refusal; 401, 403, 429 and 5xx may pass, for example with a disk that is full now."""


def connect(uri: str) -> Any:
    """Return an MLflow client of ``uri`` that sends no telemetry and does not retry by itself."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the mirror retries by itself
    silence()
    import mlflow

    if uri.startswith(SQLITE):
        create_database(Path(uri.removeprefix(SQLITE)))
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def silence() -> None:
    """Import MLflow such that it sends no telemetry and prints warnings alone."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a trial
    import mlflow  # noqa: F401 - it sets the level of its logger

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def tracking_uri(study: StudyConfig, root: Path) -> str | None:
    """Return the study's tracking URI: SQLite in the output root unless it names another; None for ``none``."""
    if study.tracking.uri == "none":
        return None
    return study.tracking.uri or f"sqlite:///{root / 'mlflow.db'}"


def create_database(path: Path) -> None:
    """Make an MLflow database that is there in full or not at all: killed half-way, MLflow would refuse it for ever."""
    import mlflow

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        mlflow.MlflowClient(tracking_uri=f"{SQLITE}{temporary}").search_experiments(max_results=1)
        try:
            os.link(temporary, path)
        except FileExistsError:  # another study was faster
            pass
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refused(error: Exception) -> bool:
    """Whether MLflow has refused what was sent, and would again; or the event itself is at fault."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in REFUSALS
    return not isinstance(error, OSError)  # no connection, a time-out, …


def one_line(error: Exception) -> str:
    """Return an error's kind and first line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
