"""What a trial asks Ray for, and the studies that no Ray could place."""

import pytest

from ddcal.errors import ResourceError
from ddcal.study.run.ray_executor import check_resources


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
