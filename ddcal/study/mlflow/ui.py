"""MLflow's own UI over a study's tracking database, on the loopback interface."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.credentials import masked, without_credentials
from ddcal.errors import BadInput, TrackingError
from ddcal.study.mlflow.client import connect, database_rights, one_line, tracking_uri
from ddcal.study.mlflow.moved import bring_home
from ddcal.study.mlflow.view import TAG, study_link, study_view
from ddcal.study.record.results import StudyResults, load_study


def serve(directory: Path | str, port: int, say: Callable[[str], None]) -> None:
    """Become an ``mlflow server`` for a study's database; this process is replaced, so signals reach the server.

    Args:
        directory: The study's folder.
        port: The port on 127.0.0.1.
        say: Prints a line.

    Raises:
        BadInput: if the study was not tracked, or not there, or its tracking server is elsewhere, or the port is taken.
        TrackingError: if the database cannot be read.
    """
    results = load_study(directory)
    uri = tracking_uri(results.study, results.directory.parent)
    if uri is None:
        raise BadInput(f"{directory}: this study was run with tracking.uri: none, so MLflow holds nothing of it")
    if uri.startswith("http"):
        raise BadInput(f"{directory}: this study was tracked by a server: open {without_credentials(uri)}")
    experiment = results.study.tracking.experiment or results.study.name
    try:
        bring_home(uri, results.directory.parent)
        client = connect(uri, database_rights(results.study))
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            _show(client, found.experiment_id, results)
    except Exception as error:
        raise TrackingError(f"tracking.uri: {uri} cannot be read: {one_line(error, uri)}") from error
    if found is None:
        raise BadInput(
            f"{directory}: MLflow on {uri} does not have it yet: `ddcal sync {shlex.quote(str(directory))}` sends it"
        )
    _refuse_taken(port)
    address = study_link(f"http://127.0.0.1:{port}", found.experiment_id)
    say(address)  # alone on its line: it is clicked on, or copied
    say(f"experiment {experiment}, MLflow on {masked(uri)}; Ctrl-C ends it")
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    settings = {"MLFLOW_BACKEND_STORE_URI": uri}  # it may hold a password, which a list of processes must not show
    settings |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    settings["PYTHONWARNINGS"] = "ignore"  # those of MLflow's own libraries
    os.execve(sys.executable, command, os.environ | settings)


def _show(client: Any, experiment_id: str, results: StudyResults) -> None:
    """Make the experiment's shared view this study's: there may be others, or it is of an earlier ddcal."""
    condition = f"tags.`ddcal.study_id` = '{results.started.get('study_id', '')}' and tags.`ddcal.role` = 'study'"
    runs = client.search_runs([experiment_id], condition, max_results=1)
    parent = runs[0].info.run_id if runs else None
    client.set_experiment_tag(experiment_id, TAG, study_view(results.started["study"], parent))


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(
                f"--port: {port} cannot be used ({error.strerror}): give another, such as {port + 1}"
            ) from error
