"""The page of a study while it runs: written again as the study goes on, and reloaded by the browser itself."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ddcal.analysis.report.page import without_reload
from ddcal.analysis.report.study_page import REPORT, study_report
from ddcal.errors import BadInput
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.results import load_study
from ddcal.study.record.status import Status, study_state, study_status

EVERY_SECONDS = 10.0
"""How often, at most, the page is written, and how often a browser reloads it."""

SHARE = 0.2
"""The share of its time that writing the page may take."""

QUIET_SECONDS = 60.0
"""A page of a study whose ledger does not grow is written so often: for what its trials are at."""

LOOK_SECONDS = 0.5


def watch_study(
    directory: Path, output: Path | None = None, *, every: float = EVERY_SECONDS, say: Callable[[Status], None]
) -> Status:
    """Write the page of a study again and again while its driver works; return how the study stands then.

    Of a study that does not run it is written once. Nothing but the study's folder and its store is read, and nothing
    but the page and its pictures written, so any machine that sees the folder may do this. The last page does not
    reload itself, whatever ends this but a kill.

    Args:
        directory: The study's folder.
        output: The folder of the page; default: ``report/`` in the study's.
        every: Seconds between two pages, at least.
        say: Called with what each page shows.

    Raises:
        BadInput: if the folder is not a study's, or the page cannot be written.
    """
    page: Path | None = None
    try:
        while True:
            began, size = time.monotonic(), _size(directory)
            results = load_study(directory)
            status = study_status(directory, results)
            running = status.state == "running"
            reload = every if running else None
            page = study_report(results, output, hurried=running, status=status, reload=reload)
            say(status)
            if not running:
                return status
            written = time.monotonic()
            soon = written + max(every, (written - began) / SHARE)
            quiet = written + max(every, QUIET_SECONDS)
            while study_state(directory, interrupted=True) == "running" and (
                time.monotonic() < soon or (_size(directory) == size and time.monotonic() < quiet)
            ):
                time.sleep(LOOK_SECONDS)
    finally:
        if page is not None:
            without_reload(page)


def _size(directory: Path) -> int:
    try:
        return (directory / LEDGER).stat().st_size
    except OSError:  # read next, which will tell
        return -1


def page_of(directory: Path, output: Path | None) -> Path:
    """Return where the page of a study is, absolute."""
    return (output or directory / REPORT).absolute() / "index.html"


@contextmanager
def served(directory: Path, output: Path | None, port: int) -> Iterator[str]:
    """Serve the folder of a study, or of its page elsewhere, on the loopback interface; yield the page's address.

    The address has a secret in it, without which nothing is served: others may have accounts on this machine.

    Args:
        directory: The study's folder, whose files the page links to.
        output: The folder of the page, as of `watch_study`.
        port: The port on 127.0.0.1; 0 takes a free one.

    Raises:
        BadInput: if the port cannot be used.
    """
    page, root = page_of(directory, output), directory.absolute()
    root = root if page.is_relative_to(root) else page.parent
    secret = secrets.token_urlsafe(16)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, secret, directory=str(root)))
    except OSError as error:
        raise BadInput(f"--port: {port} cannot be used ({error.strerror}): give another, or 0 for a free one") from None
    thread = threading.Thread(target=server.serve_forever, name="ddcal-page", daemon=True)
    thread.start()
    try:
        place = quote(page.relative_to(root).as_posix())
        yield f"http://127.0.0.1:{server.server_address[1]}/{secret}/{place}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    """Files below a folder, behind a secret; no lists of folders, and nothing is said on the console."""

    def __init__(self, secret: str, *arguments: Any, **options: Any) -> None:
        self._secret = secret
        super().__init__(*arguments, **options)

    def send_head(self) -> Any:
        """Send a file, or that there is none."""
        given, _, rest = self.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(given.encode(), self._secret.encode()):
            self.send_error(404)
            return None
        self.path = f"/{rest}"
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        """Send that there is nothing."""
        self.send_error(404)

    def end_headers(self) -> None:
        """Keep the page out of caches: it is written again."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""
