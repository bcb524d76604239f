"""What a task of a SLURM job does: the first starts Ray's head beside the study, the others give their nodes to it.

The tasks meet in a folder below the output root, which all nodes see: the first leaves a token and Ray's address there.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddcal.errors import BadInput, ResourceError
from ddcal.study.record.scheduler import Job
from ddcal.study.run.interrupt import SIGNALS

MOST_SECONDS = 300.0
"""How long tasks wait for each other; nodes of a busy cluster start their tasks minutes apart."""

LONGEST_TEMPORARY = 40
"""Characters of a folder for Ray's files: the paths of its sockets below it may have 107."""


@dataclass(frozen=True)
class Task:
    """One task of a job, of which every node has one.

    Attributes:
        rank: Its number; 0 runs the study.
        tasks: How many there are.
        meeting: The folder where they meet.
        cpus: How many CPUs SLURM gives it.
        gpus: How many GPUs.
    """

    rank: int
    tasks: int
    meeting: Path
    cpus: int
    gpus: int

    @classmethod
    def here(cls, output: Path, environment: Mapping[str, str] = os.environ) -> Task:
        """Return the task that this process is.

        Args:
            output: The output root, on a file system that all nodes see.
            environment: What `srun` has set.

        Raises:
            BadInput: if `srun` has not started this process.
        """
        job = Job.here(environment)
        numbers = [environment.get(f"SLURM_{name}", "") for name in ("PROCID", "NTASKS")]
        if job is None or not all(number.isdigit() for number in numbers):
            raise BadInput("this is a task of a SLURM job: start it by `srun` in one (`ddcal launch slurm STUDY` does)")
        rank, tasks = map(int, numbers)
        cpus = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE") or "1"
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        gpus = len([one for one in visible.split(",") if one and one != "NoDevFiles"])
        step = environment.get("SLURM_STEP_ID", "0")
        meeting = output.absolute() / f"{_meetings(job.cluster)}{job.number}-{job.restart}-{step}"
        return cls(rank, tasks, meeting, int(cpus), gpus)

    @property
    def token(self) -> Path:
        """The file with the token that protects this job's Ray."""
        return self.meeting / "token"

    @property
    def address(self) -> Path:
        """The file with the address of Ray's head; it is there once others can join."""
        return self.meeting / "address"

    def use_token(self) -> None:
        """Have Ray in this process, and in those that it starts, use the job's own token."""
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(self.token)
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.pop("RAY_ADDRESS", None)


@contextmanager
def ray_head(task: Task) -> Iterator[str]:
    """Start Ray's head for as long as the context lasts; the other tasks end with it.

    Returns:
        The address.

    Raises:
        ResourceError: if it does not start.
    """
    sweep(task.meeting.parent)
    task.meeting.mkdir(mode=0o700, parents=True)
    try:
        with open(task.token, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            stream.write(secrets.token_hex(32))
        task.use_token()
        host, port = own_address(), free_port()
        address = f"{host}:{port}"
        ports = (f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false")
        with _ray(task, "--head", *ports) as process:
            _wait(lambda: _answers(host, port), process, "Ray's head does not start")
            temporary = task.meeting / ".address"
            temporary.write_text(address)
            temporary.replace(task.address)
            yield address
    finally:
        shutil.rmtree(task.meeting, ignore_errors=True)  # which ends the other tasks


def sweep(output: Path) -> None:
    """Remove the meeting folders of killed tasks: those of jobs of which SLURM says that they have ended.

    It knows those of this cluster alone; others may see the output root, and have jobs of the same numbers.
    """
    here = Job.here()
    if here is None or not here.cluster:
        return
    form = re.compile(rf"{re.escape(_meetings(here.cluster))}(\d{{1,18}})-(\d{{1,9}})-\d{{1,9}}", re.ASCII)
    for folder in output.glob(".slurm-*"):
        found = form.fullmatch(folder.name)
        if found and Job(here.cluster, int(found[1]), int(found[2])).ended:
            shutil.rmtree(folder, ignore_errors=True)


def _meetings(cluster: str) -> str:
    """Return what the names of the meeting folders of a cluster's jobs begin with."""
    return f".slurm-{re.sub(r'[^A-Za-z0-9_.-]', '_', cluster)}-"


def give_node(task: Task) -> None:
    """Join this node to the head's Ray, and stay until the first task has ended.

    The scheduler's signals are the study's to answer: this node is needed until its trials have saved their state.

    Raises:
        ResourceError: if the head does not come, or Ray ends here before the study does.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    _wait(task.address.is_file, None, f"no head: the first task has not written {task.address}")
    address = task.address.read_text()
    task.use_token()
    with _ray(task, f"--address={address}") as process:
        while task.address.is_file():
            if process.poll() is not None:
                time.sleep(2.0)  # the head may have ended just now, and takes the file away
                if task.address.is_file():
                    raise ResourceError(f"Ray ended on {socket.gethostname()}, before the study did")
                return
            time.sleep(1.0)


def wait_for_nodes(task: Task, ray: Any) -> int:
    """Wait until the nodes of all tasks have joined; return how many have, after minutes at most."""
    deadline = time.monotonic() + MOST_SECONDS
    while (nodes := sum(node["Alive"] for node in ray.nodes())) < task.tasks and time.monotonic() < deadline:
        time.sleep(0.5)
    return nodes


@contextmanager
def _ray(task: Task, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run Ray on this node for as long as the context lasts, with ports and a folder of its own.

    Its processes do not hear the scheduler's signals: trials could save nothing without them.
    """
    folder = Path(tempfile.gettempdir())
    folder = folder if len(str(folder)) <= LONGEST_TEMPORARY else Path("/tmp")
    temporary = Path(tempfile.mkdtemp(prefix="ddcal-", dir=folder))
    named = ("node-manager", "object-manager", "metrics-export", "runtime-env-agent")
    command = [
        *(sys.executable, "-m", "ddcal.study.slurm.keeper"),
        *(sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", *options),
        *(f"--node-ip-address={own_address()}", f"--temp-dir={temporary}", "--disable-usage-stats"),
        *(f"--num-cpus={task.cpus}", f"--num-gpus={task.gpus}", f"--object-store-memory={256 * 2**20}"),
        *(f"--{name}-port={free_port()}" for name in named),
        *(f"--dashboard-agent-{name}-port={free_port()}" for name in ("listen", "grpc")),
        *("--min-worker-port=0", "--max-worker-port=0", "--include-log-monitor=false"),
    ]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is started now has it from us
    try:
        with (temporary / "start.log").open("w") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, text=True
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield process
    except ResourceError as error:
        said = (temporary / "start.log").read_text(errors="replace").strip().splitlines()
        raise ResourceError(f"{error}: {' '.join(said[-3:])[-500:]}") from error
    finally:
        assert process.stdin is not None
        process.stdin.close()  # which ends it (keeper.py)
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str] | None, problem: str) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            raise ResourceError(f"{problem} (exit code {process.returncode})")
        if time.monotonic() > deadline:
            raise ResourceError(f"{problem} within {MOST_SECONDS:.0f} seconds")
        time.sleep(0.2)


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5.0):
            return True
    except OSError:
        return False


def own_address(environment: Mapping[str, str] = os.environ) -> str:
    """Return this node's address in the network of the node that the job was launched from; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect((environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"), 9))
        except OSError:
            return "127.0.0.1"
        return str(one.getsockname()[0])


def free_port() -> int:
    """Return a port of this machine that nobody listens on at present."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
