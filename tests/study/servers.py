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


@contextlib.contextmanager
def mlflow_server(folder, port):
    """A real tracking server that keeps everything in ``folder``; killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "a")]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, env=os.environ | settings, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.1)
        yield uri
    finally:
        kill_session(process.pid)
        process.wait(30)
