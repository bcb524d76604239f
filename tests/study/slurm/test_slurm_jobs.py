"""Studies as jobs of a real SLURM: two nodes, time limits, requeues, hard kills, two studies on one node."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml
from comparing import assert_same
from own_slurm import Slurm, missing, wait_for

from ddcal.study import load_study, run_study
from ddcal.study.record.lock import LOCK

pytestmark = pytest.mark.slow

STOPS = int(os.environ.get("DDCAL_TEST_STOPS", "3"))
"""How often the long test stops the study, by the scheduler's signal and by hard kills in turn."""
TRIALS = max(4, STOPS)


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A running SLURM; skipped where Debian's slurmctld, slurmd and munge are not installed, or without root."""
    if why := missing():
        pytest.skip(why)
    for name in [one for one in os.environ if one.startswith(("SLURM_", "RAY_"))]:
        monkeypatch.delenv(name)
    one = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        one.start()
        yield one
    finally:
        one.end()


@pytest.fixture(scope="module")
def study(tiny_study):
    return tiny_study(
        base={"train.epochs": 600, "train.networks": 2},
        space={"train.lr": {"loguniform": [0.01, 0.3]}, "calibrate.mask.ratio": {"uniform": [0.0, 0.9]}},
        search={"searcher": "random", "trials": TRIALS, "concurrency": 2},
        tracking={},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, study):
    return run_study(study, output=tmp_path_factory.mktemp("undisturbed"), debug=True)


def submit(slurm, study, folder, nodes=2):
    """Submit a study as `ddcal launch slurm` does; return the job's number."""
    file = folder / f"{study.name}.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    said = subprocess.run(
        [sys.executable, "-m", "ddcal", "launch", "slurm", str(file), "--output", str(folder / "runs"),
         "--nodes", str(nodes), "--cpus", "1", "--time", "30", f"--sbatch=--chdir={folder}"],
        env=slurm.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return int(re.search(r"Submitted batch job (\d+)", said)[1])


def ended(slurm, job):
    return slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")


def output(folder):
    return "".join(path.read_text() for path in folder.glob("ddcal-*.out"))


def trains(folder, name, times):
    """Whether so many trials of a study have begun in its present session: it can be stopped in the middle."""
    logs = (folder / "runs" / name / "logs").glob("*.log")
    return sum(log.read_text().count("begins on") for log in logs) >= times


def driver(folder, name):
    return json.loads((folder / "runs" / name / LOCK).read_text())


def test_a_study_on_two_nodes_that_is_stopped_and_killed_again_and_again_ends_like_an_undisturbed_one(
    slurm, study, undisturbed, tmp_path
):
    """The signal before a limit, after which the job is queued again; a hard kill, after which it is submitted anew."""
    job, folder = submit(slurm, study, tmp_path), tmp_path / "runs" / study.name
    stops = 0
    while stops < STOPS:
        begun = sum(log.read_text().count("begins on") for log in folder.glob("logs/*.log"))
        wait_for(lambda begun=begun, job=job: trains(tmp_path, "tiny", begun + 1) or ended(slurm, job))
        if ended(slurm, job):
            break
        stops += 1
        if stops % 2:
            restarts = slurm.restarts(job)
            slurm.ask("scancel", "--signal=USR1", "--batch", str(job))
            wait_for(lambda job=job, restarts=restarts: slurm.restarts(job) > restarts or ended(slurm, job))
        else:
            os.kill(driver(tmp_path, "tiny")["pid"], signal.SIGKILL)
            wait_for(lambda job=job: ended(slurm, job))
            job = submit(slurm, study, tmp_path)
    wait_for(lambda: ended(slurm, job))
    assert slurm.state(job) == "COMPLETED", output(tmp_path)[-3000:]
    assert stops == STOPS, f"the study was over after {stops} stops"
    assert "2 nodes, 2 CPUs" in output(tmp_path) and "SIGUSR1 again stops at once" in output(tmp_path)
    assert_same(load_study(folder), undisturbed)
    assert list((tmp_path / "runs").glob(".slurm-*")) == []


def test_two_studies_on_the_same_nodes_at_once(slurm, study, undisturbed, tmp_path):
    jobs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        jobs.append(submit(slurm, study, tmp_path / name, nodes=1))
    wait_for(lambda: all(ended(slurm, job) for job in jobs))
    for name, job in zip(("first", "second"), jobs, strict=True):
        assert slurm.state(job) == "COMPLETED", output(tmp_path / name)[-3000:]
        assert_same(load_study(tmp_path / name / "runs" / study.name), undisturbed)


def test_a_cancelled_job_does_not_come_back(slurm, study, tmp_path):
    job = submit(slurm, study, tmp_path, nodes=1)
    wait_for(lambda: trains(tmp_path, "tiny", 1))
    slurm.ask("scancel", str(job))
    wait_for(lambda: ended(slurm, job))
    assert slurm.state(job) == "CANCELLED" and slurm.restarts(job) == 0
    wait_for(lambda: not (tmp_path / "runs" / "tiny" / LOCK).exists() or not alive(driver(tmp_path, "tiny")["pid"]))


def alive(pid):
    return os.path.exists(f"/proc/{pid}")
