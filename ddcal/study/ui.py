"""MLflow's own UI over a study's tracking database, on the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ddcal.errors import BadInput
from ddcal.study.results import load_study
from ddcal.study.tracking import tracking_uri


def serve(directory: Path | str, port: int, say: Callable[[str], None]) -> int:
    """Run ``mlflow server`` for a study's database until it is interrupted.

    Args:
        directory: The study's folder.
        port: The port on 127.0.0.1.
        say: Prints a line.

    Returns:
        The server's exit code.

    Raises:
        BadInput: if the study was not tracked, or its tracking server is elsewhere.
    """
    results = load_study(directory)
    uri = tracking_uri(results.study, results.directory.parent)
    if uri is None:
        raise BadInput(f"{directory}: this study was run with tracking.uri: none, so MLflow holds nothing of it")
    if uri.startswith("http"):
        raise BadInput(f"{directory}: this study was tracked by a server: open {uri}")
    say(f"MLflow with {uri} on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0
