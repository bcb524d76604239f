"""The SLURM job that a driver is part of: when it ends, and whether that of a driver on another machine has ended."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

MAY_LIVE = frozenset(
    {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "UNKNOWN"}
)
"""States of a job whose processes may run; there are none in any other, a queued one's included."""

ASK_SECONDS = 30


@dataclass(frozen=True)
class Job:
    """A run of a SLURM job.

    Attributes:
        cluster: The cluster's name; job numbers are those of one cluster.
        number: The job's.
        restart: How often it was requeued before this run.
    """

    cluster: str
    number: int
    restart: int

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Job | None:
        """Return the job that this process is part of; None outside SLURM."""
        number = environment.get("SLURM_JOB_ID", "")
        if not number.isdigit():
            return None
        restart = environment.get("SLURM_RESTART_COUNT", "")
        return cls(environment.get("SLURM_CLUSTER_NAME", ""), int(number), int(restart) if restart.isdigit() else 0)

    @classmethod
    def parse(cls, text: str) -> Job | None:
        """Return the job of a lock, as `str` writes it; None if it names none."""
        found = re.fullmatch(r"slurm:([\w.-]{0,200}):(\d{1,18}):(\d{1,9})", text, re.ASCII)
        return None if found is None else cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        """Return the job as a lock names it."""
        return f"slurm:{self.cluster}:{self.number}:{self.restart}"

    def state(self) -> str:
        """Return what SLURM says of this run: a state, ``REQUEUED`` if a later run is there, ``UNKNOWN`` else.

        ``GONE`` is a job that SLURM does not know any more: it keeps those that have ended for some minutes.
        """
        here = Job.here()
        if (
            here is not None
            and (here.cluster, here.number) == (self.cluster, self.number)
            and here.restart > self.restart
        ):
            return "REQUEUED"
        if self.cluster and self.cluster != _cluster():
            return "UNKNOWN"
        said = _asked("scontrol", "--oneliner", "show", "job", str(self.number))
        if said is None:
            return "UNKNOWN"
        if "Invalid job id" in said:
            return _of_accounting(self.number) or "GONE"
        state, restarts = re.search(r"\bJobState=(\w+)", said), re.search(r"\bRestarts=(\d+)", said)
        if state is None:
            return "UNKNOWN"
        if restarts is not None and int(restarts[1]) > self.restart:
            return "REQUEUED"
        return state[1]

    @property
    def ended(self) -> bool:
        """Whether SLURM proves that no process of this run is alive."""
        return self.state() not in MAY_LIVE


def job_end(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return when the job of this process reaches its time limit, in seconds since the epoch; None if nobody says."""
    said = environment.get("SLURM_JOB_END_TIME", "")
    if said.isdigit():
        return float(said)
    job = Job.here(environment)
    described = None if job is None else _asked("scontrol", "--oneliner", "show", "job", str(job.number))
    found = re.search(r"\bEndTime=([\d-]+T[\d:]+)", described or "")
    return None if found is None else datetime.fromisoformat(found[1]).timestamp()


def _of_accounting(number: int) -> str | None:
    """Return the state of a job in SLURM's accounting, where a site keeps one."""
    said = _asked("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={number}", "--format=State")
    found = re.match(r"[A-Z_]+(?=\s|$)", said or "")
    return None if found is None else found[0]


def _cluster() -> str:
    found = re.search(r"^ClusterName\s*=\s*(\S+)", _asked("scontrol", "show", "config") or "", re.MULTILINE)
    return "" if found is None else found[1]


def _asked(*command: str) -> str | None:
    """Return what a command of SLURM's says on either stream; None where it is missing or does not answer."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{done.stdout}{done.stderr}"
