"""The job file of a study, written from the one that comes with ddcal."""

import subprocess

import pytest
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.study.slurm.submit import job_file, left_idle
from ddcal.study.slurm.task import Task


def test_what_is_asked_for_stands_in_the_file(tmp_path):
    options = {"nodes": 2, "gpus-per-node": 4, "time": "1-12:00:00", "cpus-per-task": None}
    text = job_file("it's mine.yaml", "mine", tmp_path, options, more=["--account=lab"], python="/env/bin/python")
    lines = text.splitlines()
    for line in (
        "job-name=ddcal-mine",
        "nodes=2",
        "gpus-per-node=4",
        "time=1-12:00:00",
        "cpus-per-task=8",
        "account=lab",
    ):
        assert f"#SBATCH --{line}" in lines
    assert "PYTHON=/env/bin/python" in lines and f"OUTPUT={tmp_path}" in lines
    (tmp_path / "job").write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / "job")], check=True)
    said = subprocess.run(
        ["bash", "-c", text[text.index("PYTHON=") : text.index("# The first task")] + '\necho "$STUDY"'],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said == "it's mine.yaml\n"


@pytest.mark.parametrize(
    ("options", "more"),
    [({"time": "1:00\n#SBATCH --uid=0"}, []), ({}, ["--a=b\nrm -rf ~"]), ({}, ["rm -rf ~"])],
)
def test_nothing_else_gets_into_the_file(tmp_path, options, more):
    with pytest.raises(BadInput):
        job_file("tiny.yaml", "tiny", tmp_path, options, more=more)


@pytest.mark.parametrize(
    ("resources", "concurrency", "asked", "said"),
    [
        ({}, 2, (1, 8, 4), "--gpus 4, but trials ask for none: set resources.gpu to 1"),
        ({"gpu": 1}, 1, (2, 8, 4), "search.concurrency: 1 trial at a time leaves some of 8 GPUs idle; 8 would fit"),
        ({"gpu": 0.25}, 8, (1, 16, 4), "8 trials at a time leave some of 4 GPUs idle; 16 would fit"),
        (
            {"gpu": 0.25},
            8,
            (1, 8, 4),
            "8 trials on each node leave some of 4 GPUs idle; --cpus 16 and search.concurrency: 16",
        ),
        (
            {"cpu": 4, "gpu": 1},
            8,
            (2, 8, 4),
            "--cpus 8: a trial takes 4 of them, and 2 trials on each node leave some of 8 GPUs "
            "idle; --cpus 16 would use them",
        ),
        ({"cpu": 2, "gpu": 0.25}, 4, (2, 8, 4), "leave some of 8 GPUs idle; 8 would fit, and 20 with --cpus 20"),
        ({"cpu": 0, "gpu": 0.25}, 4, (1, 1, 4), "leave some of 4 GPUs idle; 16 would fit"),
        ({"gpu": 0.75}, 4, (1, 8, 4), None),  # Ray places no trial on parts of two
        ({"gpu": 2}, 1, (1, 8, 4), "1 trial at a time leaves some of 4 GPUs idle; 2 would fit"),
        ({}, 1, (4, 8, 0), "1 trial at a time leaves some of 32 CPUs idle; all 20 would fit"),
        ({"cpu": 3}, 2, (1, 8, 0), None),  # two CPUs are left, for no trial
        ({"gpu": "auto"}, 4, (1, 8, 4), None),
        ({"gpu": 1}, 8, (2, 8, 4), None),
        ({"cpu": 2, "threads": 4}, 3, (2, 8, 0), "3 trials at a time leave some of 16 CPUs idle; 4 would fit"),
        ({}, 20, (4, 8, 0), None),  # there are no more trials
    ],
)
def test_what_would_be_idle_is_said(tiny_study, resources, concurrency, asked, said):
    study = tiny_study(resources=resources, search={"searcher": "random", "trials": 20, "concurrency": concurrency})
    found = left_idle(study, *asked)
    assert said is None if found is None else said in found
    if resources.get("gpu"):
        with pytest.raises(BadInput, match="--gpus 0, but a trial asks for"):
            left_idle(study, 1, 8, 0)


@pytest.mark.parametrize(
    ("resources", "asked", "said"),
    [
        ({"threads": 16}, (2, 8, 0), "--cpus 8, but a trial asks for resources.threads: 16; give --cpus 16 or more"),
        ({"cpu": 12, "gpu": 1}, (2, 8, 4), "--cpus 8, but a trial asks for resources.cpu: 12; give --cpus 12 or more"),
        ({"gpu": 2}, (2, 8, 1), "--gpus 1, but a trial asks for resources.gpu: 2"),
    ],
)
def test_nodes_on_which_no_trial_fits_are_refused(tiny_study, resources, asked, said):
    with pytest.raises(BadInput, match=said):
        left_idle(tiny_study(resources=resources), *asked)


def test_the_file_is_printed_or_submitted(write_study, tmp_path, monkeypatch):
    root = tmp_path / "my runs"
    command = ["launch", "slurm", str(write_study()), "--output", str(root), "--nodes", "2"]
    printed = CliRunner().invoke(app, [*command, "--print"])
    assert printed.exit_code == 0 and "#SBATCH --nodes=2\n" in printed.output and not root.exists()
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    missing = CliRunner().invoke(app, command)
    said = f"sbatch is not on this machine: run `sbatch '{root}/tiny.sbatch'` where"
    assert missing.exit_code == 2 and said in missing.output
    assert (root / "tiny.sbatch").read_text() == printed.stdout
    (programs / "sbatch").write_text('#!/bin/sh\necho "Submitted batch job 12"\n')
    (programs / "sbatch").chmod(0o700)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "Submitted batch job 12" in done.output
    assert done.output.endswith(f"\nddcal status '{root}/tiny'\n")
    (programs / "sbatch").write_text('#!/bin/sh\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "sbatch: error: invalid partition" in refused.output


def test_an_output_root_that_is_a_file_is_one_sentence(write_study, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, said in (("file", "is a file: give a folder"), ("file/runs", "lies below a file: give a folder")):
        refused = CliRunner().invoke(app, ["launch", "slurm", str(write_study()), "--output", str(tmp_path / place)])
        assert refused.exit_code == 2 and refused.output.endswith(f"\n{tmp_path / place} {said}\n"), refused.output


def test_what_a_task_has(tmp_path):
    environment = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "8"}
    task = Task.here(tmp_path, environment | {"CUDA_VISIBLE_DEVICES": "0,3"})
    assert (task.rank, task.tasks, task.cpus, task.gpus) == (1, 2, 8, 2) and task.meeting.parent == tmp_path
    assert Task.here(tmp_path, environment).gpus == 0, "GPUs of the node that the job has not asked for"
    with pytest.raises(BadInput, match="start it by `srun`"):
        Task.here(tmp_path, {})
