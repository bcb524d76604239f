"""How ddcal speaks to MLflow: the client, a study's tracking URI, a database that is whole, and what is a refusal."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ddcal.config import StudyConfig
from ddcal.credentials import has_credentials, masked, without_credentials
from ddcal.errors import cut
from ddcal.study.record.rights import file_rights

SQLITE = "sqlite:///"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
"""MLflow's database and its folder of artefacts, in the output root."""

BATCH = 100
"""How many params MLflow takes at once."""

_OPTIONS = re.compile(r"\?\w+=[^/?]*$")
REFUSALS = (400, 404, 409)
"""HTTP statuses of such a refusal; 401, 403, 429 and 5xx may pass, for example with a disk that is full now."""


def connect(uri: str, rights: int | None = None) -> Any:
    """Return an MLflow client of ``uri`` that sends no telemetry and does not retry by itself.

    Args:
        uri: The tracking URI.
        rights: Those of a database file, if it is made now; None: as the umask lets.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the mirror retries by itself
    silence()
    import mlflow

    database = sqlite_path(uri)
    if database is not None:
        create_database(database, rights)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def silence() -> None:
    """Import MLflow such that it sends no telemetry and prints warnings alone."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a trial
    import mlflow  # noqa: F401 - it sets the level of its logger

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It prints a traceback for each statement that a full disk refuses; the error itself is raised, and told once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def tracking_uri(study: StudyConfig, root: Path) -> str | None:
    """Return the study's tracking URI: SQLite in the output root unless it names another; None for ``none``.

    What follows ``sqlite:///`` in ``tracking.uri`` is a path as it is, with its ``?``, ``#`` and ``%``; options of the
    form ``?name=value`` may end it.

    A study names an address without its password: where MLFLOW_TRACKING_URI names the same one with it, that is
    returned. So it is not for messages: those mask it (`ddcal.credentials.masked`).
    """
    given = study.tracking.uri
    if given == "none":
        return None
    if given is None:
        return sqlite_uri(root.absolute() / DATABASE)
    path = given.removeprefix(SQLITE)
    if path == given or path in ("", ":memory:") or path.startswith("file:") or _OPTIONS.search(path):
        in_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
        return in_environment if without_credentials(in_environment) == given else given
    return sqlite_uri(Path(path).absolute())


def server_address(study: StudyConfig) -> str | None:
    """Return the address of the server that tracks a study, without its password; None where no server does."""
    uri = study.tracking.uri or ""
    return without_credentials(uri) if uri.startswith("http") else None


def sqlite_uri(path: Path) -> str:
    """Return the URI with which MLflow opens this very file, whatever characters its path has.

    SQLAlchemy takes what follows a ``?`` for options, and from 2.1 on decodes ``%20``.
    """
    plain = f"{SQLITE}{path}"
    if not set("?#%").intersection(str(path)):
        return plain
    from sqlalchemy import URL

    # With the driver's name MLflow does not create the folder of what it takes for the path.
    for database, query in ((str(path), {}), (f"file:{quote(str(path))}", {"uri": "true"})):
        uri = URL.create("sqlite+pysqlite", database=database, query=query).render_as_string()
        if sqlite_path(uri) == path:
            return uri
    return plain


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI, None for other URIs and for a database in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    database = make_url(uri).database
    if not database or database == ":memory:":
        return None
    if database.startswith("file:"):  # SQLite's own URI
        return Path(unquote(database.removeprefix("file:").partition("?")[0]))
    return Path(database)


def artifact_location(root: Path, experiment: str) -> str:
    """Return where a database in ``root`` keeps an experiment's artefacts: a folder of its own, whatever its name."""
    name = (
        experiment
        if experiment.strip(".") and "/" not in experiment
        else quote(experiment, safe="").replace(".", "%2E")
    )
    return (root.absolute() / ARTIFACTS / name).as_uri()


def without_password(study: StudyConfig) -> StudyConfig:
    """Return the study as it may be written: an earlier version took passwords in ``tracking.uri``."""
    if study.tracking.uri is None or not has_credentials(study.tracking.uri):
        return study
    tracking = study.tracking.model_copy(update={"uri": without_credentials(study.tracking.uri)})
    return study.model_copy(update={"tracking": tracking})


def database_rights(study: StudyConfig) -> int | None:
    """Return the rights of the study's database in the output root; None for one that it names."""
    return file_rights(study.storage.access) if study.tracking.uri is None else None


_EMPTY: dict[str, bytes] = {}
"""Empty databases that MLflow has made in this process, of 1 MB; each knows the folder in which the process was."""


def create_database(path: Path, rights: int | None = None) -> None:
    """Make an MLflow database that is there in full or not at all: killed half-way, MLflow would refuse it for ever.

    MLflow goes through its whole history for that, 2 CPU seconds; further ones of a process are copies of the first.
    """
    import mlflow

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    here = os.getcwd()
    try:
        temporary.touch(0o666 if rights is None else rights)
        if here in _EMPTY:
            temporary.write_bytes(_EMPTY[here])
        else:
            mlflow.MlflowClient(tracking_uri=sqlite_uri(temporary)).search_experiments(max_results=1)
            _EMPTY[here] = temporary.read_bytes()
        if rights is not None:  # whatever the umask is; SQLite gives its own files beside it the same
            temporary.chmod(rights)
        try:
            os.link(temporary, path)
        except FileExistsError:  # another study was faster
            pass
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def log_params(client: Any, run: str | None, values: Mapping[str, Any]) -> None:
    """Log values as a run's params, each cut to what MLflow takes."""
    from mlflow.entities import Param

    params = [Param(name, str(value)[:6000]) for name, value in values.items()]
    for start in range(0, len(params), BATCH):
        client.log_batch(run, params=params[start : start + BATCH])


def refused(error: Exception) -> bool:
    """Whether MLflow has refused what was sent, and would again; or the event itself is at fault."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in REFUSALS
    return not isinstance(error, OSError)  # no connection, a time-out, …


def one_line(error: Exception, uri: str = "") -> str:
    """Return an error's kind and first line, with passwords masked: those of addresses in it, and that of ``uri``."""
    text = masked(str(error), uri)
    return f"{type(error).__name__}: {cut(text.splitlines()[0], 200) if text else ''}"
