"""The SLURM job or the pod that a driver is part of, and whether that of a driver on another machine has ended."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

MAY_LIVE = frozenset(
    {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "UNKNOWN"}
)
"""States of a job whose processes may run; there are none in any other, a queued one's included."""

OVER = frozenset({"Succeeded", "Failed", "GONE"})
"""States of a pod whose containers have all ended."""

ASK_SECONDS = 30

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts a pod's token and the certificate of its cluster."""


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

    @property
    def shown(self) -> str:
        """The job in words, for messages."""
        return f"SLURM job {self.number}"

    @property
    def status(self) -> str:
        """The job's number and what SLURM says of it: ``12 RUNNING``."""
        return f"{self.number} {self.state()}"

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

    @property
    def ending(self) -> bool:
        """Whether it is about to end."""
        return self.state() == "COMPLETING"


@dataclass(frozen=True)
class Pod:
    """A pod of Kubernetes.

    Attributes:
        cluster: A digest of the cluster's certificate: names of pods are those of one cluster.
        namespace: The pod's.
        name: Its name.
        uid: What Kubernetes calls it: a name may be given out again.
    """

    cluster: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Pod | None:
        """Return the pod that this process is in; None where POD_NAMESPACE, POD_NAME and POD_UID do not say it."""
        names = (environment.get(f"POD_{name}", "") for name in ("NAMESPACE", "NAME", "UID"))
        return cls.parse(":".join(("kubernetes", _kubernetes(), *names)))

    @classmethod
    def parse(cls, text: str) -> Pod | None:
        """Return the pod of a lock, as `str` writes it; None if it names none."""
        name = r"[a-z0-9][a-z0-9.-]{0,252}"
        found = re.fullmatch(rf"kubernetes:([0-9a-f]{{16}}):({name}):({name}):([\w-]{{1,100}})", text, re.ASCII)
        return None if found is None else cls(*found.groups())

    @property
    def shown(self) -> str:
        """The pod in words, for messages."""
        return f"pod {self.name}"

    @property
    def status(self) -> str:
        """The pod's name and what Kubernetes says of it: ``pod ddcal-head-x7k2p Running``."""
        return f"pod {self.name} {self.state()}"

    def __str__(self) -> str:
        """Return the pod as a lock names it."""
        return f"kubernetes:{self.cluster}:{self.namespace}:{self.name}:{self.uid}"

    def state(self) -> str:
        """Return the pod's phase or ``Terminating``, ``GONE`` if there is no such pod, ``UNKNOWN`` if nobody says.

        A pod's object goes when all of its containers have ended, or when its node is given up.
        """
        if self.cluster != _kubernetes():
            return "UNKNOWN"
        said = _described(self)
        if said.get("kind") == "Status":
            return "GONE" if said.get("reason") == "NotFound" else "UNKNOWN"
        metadata, status = said.get("metadata"), said.get("status")
        if said.get("kind") != "Pod" or not isinstance(metadata, dict) or not isinstance(status, dict):
            return "UNKNOWN"
        if metadata.get("uid") != self.uid:
            return "GONE"
        phase = str(status.get("phase", "UNKNOWN"))
        return "Terminating" if "deletionTimestamp" in metadata and phase not in OVER else phase

    @property
    def ended(self) -> bool:
        """Whether Kubernetes proves that no process of this pod is alive."""
        return self.state() in OVER

    @property
    def ending(self) -> bool:
        """Whether it is about to end."""
        return self.state() == "Terminating"


def scheduled_here() -> Job | Pod | None:
    """Return the SLURM job or the pod that this process is part of; None in neither."""
    return Job.here() or Pod.here()


def parse_scheduled(text: str) -> Job | Pod | None:
    """Return the job or the pod that a lock names; None if it names none."""
    return Job.parse(text) or Pod.parse(text)


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


def _kubernetes() -> str:
    """Return what tells this cluster of Kubernetes from others; empty outside one."""
    try:
        return hashlib.sha256((ACCOUNT / "ca.crt").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def _described(pod: Pod) -> dict[str, Any]:
    """Return what the API of Kubernetes says of a pod: a Pod, or a Status that says why not; empty if nothing."""
    import http.client
    import ssl

    environment = os.environ
    host = environment.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = environment.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    try:
        token = (ACCOUNT / "token").read_text().strip()
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        connection = http.client.HTTPSConnection(host, int(port), timeout=ASK_SECONDS, context=context)
        try:
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            connection.request("GET", f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}", headers=headers)
            said = json.loads(connection.getresponse().read())
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):  # refused, unreachable, or no JSON
        return {}
    return said if isinstance(said, dict) else {}
