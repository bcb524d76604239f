"""What SLURM says of a job, by stand-ins that print what SLURM 22.05 printed."""

import json
import os
from dataclasses import asdict, replace
from datetime import datetime

import pytest

from ddcal.errors import BadInput
from ddcal.store.lock_holder import Holder
from ddcal.study.record.lock import LOCK, DriverLock
from ddcal.study.record.scheduler import Job, job_end
from ddcal.study.record.status import driver_job, study_state

DESCRIBED = (
    "JobId=12 JobName=job.sh UserId=root(0) Requeue=1 Restarts={restarts} BatchFlag=1 JobState={state} Reason=None "
    "EndTime=2026-11-29T09:22:32 Deadline=N/A"
)
UNKNOWN_JOB = "slurm_load_jobs error: Invalid job id specified"


@pytest.fixture
def slurm_says(tmp_path, monkeypatch):
    """slurm_says(text, accounting): what `scontrol show job` and `sacct` print; the cluster is called tests."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in [one for one in os.environ if one.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    def say(text, accounting="Slurm accounting storage is disabled"):
        (programs / "job").write_text(text)
        (programs / "accounting").write_text(accounting)
        script = f'#!/bin/sh\n[ "$2" = config ] && echo "ClusterName             = tests" || cat {programs}/job\n'
        for program, content in (("scontrol", script), ("sacct", f"#!/bin/sh\ncat {programs}/accounting\n")):
            (programs / program).write_text(content)
            (programs / program).chmod(0o700)

    return say


def test_the_job_of_this_process():
    assert Job.here({}) is None
    assert Job.here({"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "tests"}) == Job("tests", 12, 0)
    again = Job.here({"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "tests", "SLURM_RESTART_COUNT": "3"})
    assert again == Job("tests", 12, 3) == Job.parse(str(again))
    assert Job.parse("slurm:tests:12") is None and Job.parse("slurm:a;b:1:1") is None and Job.parse("") is None


@pytest.mark.parametrize(
    ("said", "accounting", "state", "ended"),
    [
        (DESCRIBED.format(state="RUNNING", restarts=0), "", "RUNNING", False),
        (DESCRIBED.format(state="COMPLETING", restarts=0), "", "COMPLETING", False),
        (DESCRIBED.format(state="TIMEOUT", restarts=0), "", "TIMEOUT", True),
        (DESCRIBED.format(state="NODE_FAIL", restarts=0), "", "NODE_FAIL", True),
        (DESCRIBED.format(state="RUNNING", restarts=1), "", "REQUEUED", True),
        (UNKNOWN_JOB, "CANCELLED by 0", "CANCELLED", True),
        (UNKNOWN_JOB, "Slurm accounting storage is disabled", "GONE", True),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", "", "UNKNOWN", False),
        ("", "", "UNKNOWN", False),
    ],
)
def test_what_is_said_of_a_job(slurm_says, said, accounting, state, ended):
    slurm_says(said, accounting)
    job = Job("tests", 12, 0)
    assert (job.state(), job.ended) == (state, ended)
    assert Job("elsewhere", 12, 0).state() == "UNKNOWN", "job numbers are those of one cluster"


def test_the_next_run_of_a_job_knows_that_the_one_before_has_ended(slurm_says, monkeypatch):
    slurm_says("")
    for name, value in {"JOB_ID": "12", "CLUSTER_NAME": "tests", "RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert Job("tests", 12, 1).ended and not Job("tests", 12, 2).ended and not Job("tests", 13, 0).ended


def test_without_slurm_nothing_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Job("", 12, 0).state() == "UNKNOWN" and job_end({"SLURM_JOB_ID": "12"}) is None


def test_when_the_job_ends(slurm_says):
    slurm_says(DESCRIBED.format(state="RUNNING", restarts=0))
    assert job_end({}) is None
    assert job_end({"SLURM_JOB_ID": "12"}) == datetime(2026, 11, 29, 9, 22, 32).timestamp()
    assert job_end({"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": "1795944152"}) == 1795944152


def locked(directory, job, **changes):
    elsewhere = replace(Holder.here(), **{"host": "elsewhere", **changes})
    (directory / LOCK).write_text(json.dumps(asdict(elsewhere) | ({} if job is None else {"job": str(job)})))


def test_a_driver_of_another_machine_is_taken_over_from_where_its_job_has_ended(tmp_path, slurm_says):
    slurm_says(DESCRIBED.format(state="TIMEOUT", restarts=0))
    locked(tmp_path, Job("tests", 12, 0))
    with pytest.raises(BadInput, match="if its SLURM job 12 has ended, --take-over finds that out"):
        DriverLock(tmp_path)
    lock = DriverLock(tmp_path, take_over=True)
    assert lock.taken_over
    lock.release()


@pytest.mark.parametrize(
    ("said", "job", "message"),
    [
        (DESCRIBED.format(state="RUNNING", restarts=0), Job("tests", 12, 0), "its SLURM job 12 is RUNNING"),
        ("no answer", Job("tests", 12, 0), "nothing here says how its SLURM job 12 is; if that machine is gone"),
        (UNKNOWN_JOB, Job("another", 12, 0), "nothing here says how its SLURM job 12 is"),
        (UNKNOWN_JOB, None, "--take-over cannot tell, as it was in no job of SLURM's and no pod; if that machine"),
        (UNKNOWN_JOB, "slurm:tests:1; rm", "--take-over cannot tell"),
    ],
)
def test_where_nothing_is_proved_the_lock_stays(tmp_path, slurm_says, said, job, message):
    slurm_says(said)
    locked(tmp_path, job)
    with pytest.raises(BadInput, match=message):
        DriverLock(tmp_path, take_over=True)
    assert (tmp_path / LOCK).exists()


def test_a_process_that_is_seen_to_live_is_believed_more_than_slurm(tmp_path, slurm_says):
    slurm_says(UNKNOWN_JOB)
    here = Holder.here()
    locked(tmp_path, Job("tests", 12, 0), host=here.host)
    with pytest.raises(BadInput, match=f"in use by process {here.pid}"):
        DriverLock(tmp_path, take_over=True)


@pytest.mark.parametrize(("state", "shown"), [("RUNNING", "running"), ("NODE_FAIL", "dead"), ("UNKNOWN", "running")])
def test_a_study_whose_job_has_ended_is_dead(tmp_path, slurm_says, state, shown):
    slurm_says("" if state == "UNKNOWN" else DESCRIBED.format(state=state, restarts=0))
    locked(tmp_path, Job("tests", 12, 0))
    assert (study_state(tmp_path, False), driver_job(tmp_path)) == (shown, f"12 {state}")
    locked(tmp_path, None)
    assert driver_job(tmp_path) is None


def test_a_lock_names_the_job_of_its_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "tests")
    lock = DriverLock(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())["job"] == "slurm:tests:12:0"
    lock.release()
