"""Telling somebody how a study has ended, failed or stopped: a command, a webhook; each once for every driver.

Nothing here changes how the study ends: what fails is one warning, without the address's secrets and without what the
command prints.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from ddcal.config import StudyConfig
from ddcal.config.places import variable_of, webhook_problem
from ddcal.credentials import masked
from ddcal.errors import BadInput
from ddcal.study.record.results import load_study

logger = logging.getLogger(__name__)

NOTIFY_SECONDS = 30.0
"""How long a command, and a webhook, may take."""

Outcome = Literal["finished", "stopped", "failed"]


@contextmanager
def notified(study: StudyConfig, directory: Path) -> Iterator[None]:
    """Tell whom the study names how what runs in this context ends; whatever it raises is raised on.

    Args:
        study: The study.
        directory: Its folder, where its results are read.
    """
    outcome: Outcome = "failed"
    said: str | None = None
    try:
        yield
        outcome = "finished"
    except KeyboardInterrupt as error:
        outcome, said = "stopped", str(error) or "interrupted"
        raise
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        raise
    finally:
        if study.notify.command is not None or study.notify.webhook is not None:
            try:
                notify(study, outcome_of(study, directory, outcome, said))
            except Exception as error:
                logger.warning("notify: %s", type(error).__name__)


def check_notify(study: StudyConfig) -> None:
    """Raise BadInput if the webhook's address cannot be used as it is in the environment; nothing is sent."""
    if study.notify.webhook is not None:
        _address(study)


def outcome_of(study: StudyConfig, directory: Path, outcome: Outcome, said: str | None) -> dict[str, Any]:
    """Return what is told of a study: JSON values.

    Args:
        study: The study.
        directory: Its folder.
        outcome: How the driver has ended.
        said: The error, if there was one.
    """
    told: dict[str, Any] = {"study": study.name, "outcome": outcome, "directory": str(directory)}
    told |= {"host": socket.gethostname(), "error": None if said is None else masked(said.splitlines()[0][:500])}
    try:
        results = load_study(directory)
        summary = results.summary()
    except (BadInput, OSError) as error:
        return told | {"error": told["error"] or masked(str(error))}
    if outcome == "finished" and not results.completed:
        told |= {"outcome": "failed", "error": "no trial ran to its end"}
    finished = sum(trial.outcome is not None for trial in results.records)
    told |= {"trials": study.search.trials, "finished": finished, "outcomes": summary["outcomes"]}
    winner = summary["winner"]
    told["winner"] = winner and {name: winner[name] for name in ("trial_key", "values", "metrics")}
    return told | {"seconds": summary["seconds"], "ending": summary["ending"]}


def notify(study: StudyConfig, told: dict[str, Any]) -> None:
    """Run the command, and call the webhook; what fails is logged, without secrets."""
    body = json.dumps(told).encode()
    if study.notify.command is not None:
        problem = _run(study.notify.command, body)
        if problem is not None:
            logger.warning("notify.command: %s", problem)
    if study.notify.webhook is not None:
        try:
            address = _address(study)
        except BadInput as error:
            logger.warning("%s", error)
            return
        problem = _post(address, body)
        if problem is not None:
            logger.warning("notify.webhook: %s: %s", urlsplit(address).hostname, problem)


def _run(command: str, body: bytes) -> str | None:
    """Run a command in the shell, in a session of its own; return what went wrong."""
    try:
        process = subprocess.Popen(
            command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # it may print what nobody should read in a log
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    try:
        process.communicate(body, timeout=NOTIFY_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"took longer than {NOTIFY_SECONDS:g} s, and was ended"
    return None if process.returncode == 0 else f"ended with exit code {process.returncode}"


def _address(study: StudyConfig) -> str:
    """Return the webhook's address, from the environment where the study says so.

    Raises:
        BadInput: if it is not there, or none that may be used.
    """
    given = str(study.notify.webhook)
    variable = variable_of(given)
    if variable is None:
        return given
    address = os.environ.get(variable, "")
    if not address:
        raise BadInput(f"notify.webhook: {given} is not set in the environment: set it to the webhook's address")
    if problem := webhook_problem(address, study.notify.allow_http, in_study=False):
        raise BadInput(f"notify.webhook: {given} in the environment: {problem}")
    return address


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it might lead away from https."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(address: str, body: bytes) -> str | None:
    """Send the body to an address; return what went wrong, without the address."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    headers = {"Content-Type": "application/json", "User-Agent": "ddcal"}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, fragment="")), body, headers)
    handlers: list[Any] = [_NoRedirects()]
    if webhook_problem(f"http://{host}", False, in_study=False) is None:
        handlers.append(urllib.request.ProxyHandler({}))  # this machine is reached directly
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=NOTIFY_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"it answered with HTTP {error.code}"
    except urllib.error.URLError as error:
        return f"no connection ({type(error.reason).__name__})"
    except Exception as error:
        return f"{type(error).__name__}"
