"""What a trial asks Ray for, the studies that no Ray could place, and folders that every node must see."""

import importlib
import os

import pytest

from ddcal.errors import ResourceError
from ddcal.study.run.ray_executor import check_resources, check_shared, name_data_root


@pytest.mark.parametrize(
    ("resources", "cpus"),
    [
        ({}, 1.0),
        ({"cpu": 2}, 2.0),
        ({"cpu": 0.5}, 1.0),
        ({"cpu": 0, "threads": 2}, 2.0),
        ({"cpu": 0.5, "gpu": 0.25}, 0.5),
        ({"cpu": 0, "threads": 4, "gpu": "auto"}, 0.0),
    ],
)
def test_without_a_gpu_a_trial_asks_for_its_threads(resources, cpus, tiny_study):
    assert tiny_study(resources=resources).resources.cpus == cpus


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"cpu": 8}, "resources.cpu: a trial asks for 8 but Ray has 2 CPUs: lower it"),
        ({"cpu": 1, "threads": 3}, "resources.threads: a trial asks for 3 but Ray has 2 CPUs: lower it"),
        (
            {"gpu": 0.5},
            "resources.gpu: a trial asks for 0.5 but Ray has 0 GPUs: lower it, or set it to 0 to run on the CPU",
        ),
        ({"gpu": "auto"}, "resources.gpu: auto needs a GPU but Ray has none: set it to 0 to run on the CPU"),
    ],
)
def test_a_study_that_could_never_be_placed(resources, message, tiny_study):
    with pytest.raises(ResourceError) as error:
        check_resources(tiny_study(resources=resources), {"CPU": 2.0})
    assert str(error.value) == message
    check_resources(tiny_study(), {"CPU": 2.0})


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({"cpu": 8}, "8 CPUs"),
        ({"cpu": 4, "gpu": 0.5}, "4 CPUs and 0.5 GPUs"),
        ({"cpu": 3, "gpu": "auto"}, "3 CPUs and 1 GPUs"),
    ],
)
def test_a_trial_that_fits_on_no_single_node(resources, asked, tiny_study):
    nodes = [{"CPU": 6.0}, {"CPU": 2.0, "GPU": 1.0}]
    with pytest.raises(ResourceError) as error:
        check_resources(tiny_study(resources=resources), {"CPU": 8.0, "GPU": 1.0}, nodes)
    there = "(6 CPUs and 0 GPUs, 2 CPUs and 1 GPUs): lower it"
    assert str(error.value) == f"resources.cpu: a trial asks for {asked}, and no single node of Ray has them {there}"
    check_resources(tiny_study(resources={"cpu": 6}), {"CPU": 8.0, "GPU": 1.0}, nodes)
    check_resources(tiny_study(resources={"cpu": 2, "gpu": 1}), {"CPU": 8.0, "GPU": 1.0}, nodes)


def test_a_relative_data_root_is_the_same_for_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDCAL_DATA", "data")
    name_data_root()
    assert os.environ["DDCAL_DATA"] == str(tmp_path / "data")


class Nodes:
    """A Ray whose nodes take no task the first times that they are asked; its tasks run here."""

    exceptions = importlib.import_module("ray.exceptions")

    def __init__(self, refusals, nodes=2):
        self.refusals, self.count = refusals, nodes

    def nodes(self):
        return [
            {"Alive": True, "NodeID": f"{number:056x}", "NodeManagerHostname": f"node-{number}"}
            for number in range(self.count)
        ]

    def remote(self, **options):
        return lambda function: self._Task(function)

    def get(self, answers):
        if self.refusals:
            self.refusals -= 1
            raise self.exceptions.TaskUnschedulableError("soft=False was specified")
        return answers

    class _Task:
        def __init__(self, function):
            self.remote = function

        def options(self, **options):
            return self


def test_a_node_that_has_just_come_is_asked_again(tmp_path):
    check_shared(tmp_path / "runs", Nodes(refusals=2))
    assert os.listdir(tmp_path / "runs") == [], "no marker is left"


def test_nodes_that_never_take_a_task_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("ddcal.study.run.ray_executor.COME_AND_GO_SECONDS", 0.0)
    with pytest.raises(ResourceError, match="the cluster's nodes come and go"):
        check_shared(tmp_path / "runs", Nodes(refusals=9))
    assert os.listdir(tmp_path / "runs") == []
