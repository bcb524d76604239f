"""A SLURM of our own on this machine: a controller and two nodes on loopback, with files of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=600
KillWait=10
JobRequeue=1
SchedulerParameters=sched_interval=2,requeue_setup_env_fail
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES:4
"""


class Slurm:
    """Its commands find it by `environment`."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        self._processes = []

    def start(self):
        (self.folder / "state").mkdir()
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o600)
        ports = dict(zip(("controller", "first", "second"), free_ports(3), strict=True))
        config = CONFIG.format(host=socket.gethostname(), folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(config)
        files = {name: f"{self.folder}/munge.{name}" for name in ("log", "pid", "seed", "socket")}
        self._begin(
            "munged", "--foreground", "--force", "--num-threads=2", f"--key-file={self.folder}/munge.key",
            f"--log-file={files['log']}", f"--pid-file={files['pid']}", f"--seed-file={files['seed']}",
            f"--socket={files['socket']}",
        )  # fmt: skip
        wait_for((self.folder / "munge.socket").exists)
        self._begin("slurmctld", "-D", "-c")
        for node in ("node1", "node2"):
            self._begin("slurmd", "-D", "-N", node)
        wait_for(lambda: self.ask("sinfo", "--noheader", "--format=%t").split() in (["idle"], ["idle", "idle"]))

    def _begin(self, *command):
        with (self.folder / f"{command[0]}{len(self._processes)}.out").open("w") as output:
            self._processes.append(
                subprocess.Popen(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def ask(self, *command, **options):
        """Return what one of its commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600, **options)
        return done.stdout + done.stderr

    def state(self, job):
        """Return a job's state."""
        said = self.ask("scontrol", "--oneliner", "show", "job", str(job))
        return said.partition("JobState=")[2].split()[0]

    def restarts(self, job):
        """Return how often a job was queued again."""
        said = self.ask("scontrol", "--oneliner", "show", "job", str(job))
        return int(said.partition("Restarts=")[2].split()[0])

    def end(self):
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        for process in self._processes[::-1]:
            process.terminate()
        for process in self._processes[::-1]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=600)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited for minutes"
        time.sleep(0.2)


def missing():
    """Return why no SLURM can be started here; None where one can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurmctld, slurmd, munge)"
    return None if os.geteuid() == 0 else "only root can start a SLURM"
