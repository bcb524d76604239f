"""A real Ray cluster of several nodes on this machine: raylets with ports, object stores and folders of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "1000",  # a dead node is noticed after 5 seconds, not 15
    "RAY_health_check_timeout_ms": "10000",  # one that is only busy is not dead
}

ATTEMPTS = 3
"""So often a node is started: Ray gives its processes 30 seconds to find each other, too few on a busy machine."""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Cluster:
    """Nodes that are started and killed one by one; the first is the head.

    Attributes:
        address: The head's, ``host:port``.
        dashboard: The job server's address, if the head has one.
        through: The command through which nodes are started; empty for none.
    """

    through = ()

    def __init__(self, nodes, cpus=1, dashboard=False):
        """Start ``nodes`` nodes of ``cpus`` CPUs; HOME, where the token lies, is a test's own."""
        assert os.environ["HOME"].startswith(tempfile.gettempdir()), "never the user's own token"
        self.cpus = cpus
        self.folder = Path(tempfile.mkdtemp(prefix="ddcal-ray-"))  # Ray's socket paths are limited to 107 characters
        self.sessions = []
        self.address = f"{socket.gethostbyname(socket.gethostname())}:{free_port()}"
        self.dashboard = f"http://127.0.0.1:{free_port()}" if dashboard else None
        self.environment = {
            name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOB_ID")
        } | ENVIRONMENT
        if not (Path(os.environ["HOME"]) / ".ray" / "auth_token").exists():
            self._ray("get-auth-token", "--generate")
        try:
            for _ in range(nodes):
                self.start_node()
        except BaseException:
            self.close()
            raise

    def start_node(self):
        """Start one more node."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.sessions.append(self._start_node(len(self.sessions)))
                return
            except AssertionError:
                if attempt == ATTEMPTS:
                    raise

    def _start_node(self, number):
        port = self.address.rpartition(":")[2]
        if number:
            place = [f"--address={self.address}"]
        elif self.dashboard:
            place = ["--head", f"--port={port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
            place += [f"--dashboard-port={self.dashboard.rpartition(':')[2]}"]
        else:
            place = ["--head", f"--port={port}", "--include-dashboard=false"]
        place += [] if number else [f"--ray-client-server-port={free_port()}"]
        ports = ("node-manager", "object-manager", "metrics-export", "runtime-env-agent")
        return self._ray(
            "start",
            *place,
            f"--temp-dir={self.folder / str(number)}",
            f"--num-cpus={self.cpus}",
            "--num-gpus=0",
            f"--object-store-memory={80 * 2**20}",
            "--include-log-monitor=false",
            "--disable-usage-stats",
            *(f"--{name}-port={free_port()}" for name in ports),
            f"--dashboard-agent-listen-port={free_port()}",
            f"--dashboard-agent-grpc-port={free_port()}",
            "--min-worker-port=0",
            "--max-worker-port=0",
        )

    def kill_node(self, number):
        """SIGKILL to a node's raylet, workers and whatever else it runs."""
        kill_session(self.sessions[number])

    def close(self):
        """Kill what is left."""
        for session in self.sessions:
            kill_session(session)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ray(self, *arguments):
        """Run `ray` to its end in a session of its own, which what it leaves running belongs to."""
        code = "from ray.scripts.scripts import main; main()"
        with (self.folder / "start.log").open("a") as log:
            process = subprocess.Popen(
                [*self.through, sys.executable, "-c", code, *arguments],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            status = process.wait(600)
        except subprocess.TimeoutExpired:
            status = None
        if status != 0:
            kill_session(process.pid)
            raise AssertionError((self.folder / "start.log").read_text()[-3000:])
        return process.pid


def kill_session(session):
    """SIGKILL to all processes of a session, until none is left."""
    while pids := members(session):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def members(session):
    """Return the process ids of a session, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(stat.parent.name))
    return found
