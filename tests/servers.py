"""MLflow servers on the loopback interface: real ones, and what stands before them or in their place."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from nodes import kill_session

MOST_SECONDS = 600
"""How long a server may take to start or to end on a machine that is busy with other things."""


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers everything with the status ``code``."""

    code = 500

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PATCH = do_PUT = do_GET

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def refusing(port, code):
    handler = type("Handler", (Refusing,), {"code": code})
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as refuser:
        threading.Thread(target=refuser.serve_forever, daemon=True).start()
        yield
        refuser.shutdown()


HOP = ("host", "connection")


class Passing(http.server.BaseHTTPRequestHandler):
    """Passes everything on to the server at ``target`` after ``delay`` seconds; ``broken(path)`` ones are a 500."""

    target, delay = "", 0.0
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.delay)
        if self.broken(self.path):
            status, content, kind = 500, b"", "text/plain"
        else:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            request = urllib.request.Request(self.target + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=600) as answer:
                    status, content, kind = answer.status, answer.read(), answer.headers["Content-Type"]
            except urllib.error.HTTPError as error:
                status, content, kind = error.code, error.read(), error.headers["Content-Type"]
        self.send_response(status)
        self.send_header("Content-Type", kind or "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has given up
            self.wfile.write(content)

    do_POST = do_PATCH = do_PUT = do_GET

    @staticmethod
    def broken(path):
        return False

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def proxy(target, delay=0.0, broken=None):
    """What stands before the server at ``target``; its own address."""
    answers = {"target": target, "delay": delay} | ({"broken": staticmethod(broken)} if broken else {})
    handler = type("Handler", (Passing,), answers)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def mlflow_server(folder, port):
    """A real tracking server that keeps everything in ``folder``; killed at the end."""
    command = ["server", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    with serving([*command, "--artifacts-destination", str(folder / "a")], folder, port) as uri:
        yield uri


@contextlib.contextmanager
def scoring_server(model, folder, port):
    """``mlflow models serve`` of a model's folder or URI, with its log in ``folder``; killed at the end."""
    with serving(["models", "serve", "--env-manager", "local", "-m", str(model)], folder, port) as uri:
        yield uri


@contextlib.contextmanager
def serving(command, folder, port):
    """An MLflow server of one worker in ``folder``, from the moment that it is ready; killed at the end."""
    command = [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=os.environ | settings, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(uri, process, folder / "server.log")
        yield uri
    finally:
        kill_session(process.pid)
        process.wait(MOST_SECONDS)


def wait_for_server(uri, process, log):
    """Wait until a server that ``process`` starts is ready; its log is shown where it ends instead."""
    until = time.monotonic() + MOST_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=600).close()
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, f"no answer in {MOST_SECONDS} s: {log.read_text()[-2000:]}"
            time.sleep(0.1)
