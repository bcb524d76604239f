"""Devices, precision and compiling: what goes into keys, what is refused, and what is read of old records."""

import pytest
import torch

from ddcal.config import study_problems
from ddcal.errors import ResourceError
from ddcal.pipeline import Environment
from ddcal.pipeline.environment import default_device, gpu_device, lacks, study_environment

OLD = {"device": "cpu", "precision": "float32", "threads": 2}


def test_an_old_record_is_read():
    assert Environment.recorded(OLD) == Environment("cpu", 2)
    assert Environment.recorded(OLD | {"device": "cuda:NVIDIA H100"}).device == "cuda"


@pytest.mark.parametrize("environment", [Environment("cpu", 2, compile=True), Environment("cuda", 1, "tf32", "cuda:a")])
def test_what_was_recorded_is_what_is_used_again(environment):
    again = Environment.recorded(environment.identity())
    assert (again.device, again.threads) == (environment.device, environment.threads)
    assert (again.precision, again.compile) == (environment.precision, environment.compile)


def test_what_is_off_is_in_no_key():
    assert Environment("cpu", 2).identity() == OLD
    assert Environment("cpu", 2, compile=True).identity() == OLD | {"compile": True}
    assert Environment("mps").identity()["device"] == "mps"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"device": "gpu"}, "cpu, cuda, mps"),
        ({"precision": "bfloat16"}, "float32, tf32"),
        ({"precision": "tf32"}, "NVIDIA"),
        ({"device": "mps", "precision": "tf32"}, "NVIDIA"),
        ({"device": "mps", "compile": True}, "leave it off"),
    ],
)
def test_what_no_machine_has_is_refused(wrong, said):
    with pytest.raises(ResourceError, match=said):
        Environment(**wrong)


def test_tf32_without_a_gpu_is_a_problem_of_the_study(write_study):
    _, problems = study_problems(write_study(resources={"precision": "tf32"}))
    assert [problem.path for problem in problems] == ["resources.precision"]
    _, problems = study_problems(write_study(resources={"precision": "tf32", "gpu": 0.5}))
    assert problems == []


def test_a_study_says_where_and_how(tiny_study):
    asked = {"gpu": 1, "threads": 2, "precision": "tf32", "compile": True}
    assert study_environment(tiny_study(resources=asked)) == Environment("cuda", 2, "tf32", compile=True)
    assert study_environment(tiny_study()) == Environment("cpu", 1)
    with pytest.raises(ResourceError, match="NVIDIA"):  # on a laptop of Apple's
        study_environment(tiny_study(resources=asked), "mps")


@pytest.mark.parametrize(("cuda", "mps", "found"), [(True, False, "cuda"), (False, True, "mps"), (False, False, None)])
def test_the_gpu_that_is_here(cuda, mps, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert gpu_device() == found
    assert default_device() == ("cuda" if cuda else "cpu")  # mps is used where it is asked for
    missing = [key for key, _ in lacks(Environment("mps"))]
    assert missing == ([] if mps else ["device"])


def test_a_gpu_without_tf32_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    turing = Environment("cuda", 1, "tf32", kind="cuda:T4")
    ((attribute, said),) = lacks(turing)
    assert attribute == "precision" and "T4" in said
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert list(lacks(turing)) == []
