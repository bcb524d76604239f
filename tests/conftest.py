"""One Ray for all tests that need one, and a study so small that a trial takes a fraction of a second."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml

from ddcal.config import StudyConfig
from ddcal.config.trial import flatten

HOME = Path(tempfile.mkdtemp(prefix="ddcal-"))  # short: Ray's socket paths are limited to 107 characters
os.environ.setdefault("DDCAL_DATA", str(Path.home() / ".cache" / "ddcal" / "data"))
os.environ["HOME"] = str(HOME)  # before anything imports ray, which looks for its token there once and for all

BASE = {
    "network.width": 8,
    "distill.backbone": "real",
    "distill.ipc": 2,
    "distill.probe.epochs": 1,
    "train.epochs": 4,
    "train.lr": 0.1,
    "train.augment": "none",
    "train.networks": 1,
}


def study_values(base=None, **sections):
    """The tiny study as a dictionary; ``base`` replaces single names, ``sections`` whole sections."""
    values = {
        "name": "tiny",
        "base": {**BASE, **flatten(base or {})},
        "space": {"calibrate.mask.ratio": {"uniform": [0.0, 0.9]}},
        "objectives": {"val/ece": "min", "val/accuracy": "max"},
        "search": {"searcher": "random", "trials": 2},
        "tracking": {"uri": "none"},
    }
    return {**values, **sections}


@pytest.fixture(scope="session")
def tiny_study():
    """tiny_study(base=…, space=…, …) -> StudyConfig."""
    return lambda base=None, **sections: StudyConfig.model_validate(study_values(base, **sections))


@pytest.fixture
def write_study(tmp_path):
    """write_study(base=…, space=…, …) -> the path of a study file."""

    def write(base=None, **sections):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(study_values(base, **sections)))
        return path

    return write


@pytest.fixture(scope="session")
def started_ray():
    """started_ray() -> Ray, which it starts if it does not run."""
    from stores import AWS

    from ddcal.study.run.ray_executor import ENVIRONMENT
    from ddcal.study.run.ray_start import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in {**ENVIRONMENT, **AWS}.items():  # workers have the environment that Ray began with
            patch.setenv(name, value)
        import ray

        options = {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 256 * 2**20}
        options |= {"namespace": "ddcal", "log_to_driver": False, "_temp_dir": str(HOME / "ray")}

        def started():
            if not ray.is_initialized():
                start_ray(ray, options)
                assert os.environ["RAY_AUTH_MODE"] == "token"
            return ray

        yield started
        ray.shutdown()


@pytest.fixture
def ray_session(started_ray):
    """A Ray of 2 CPUs with token authentication and without dashboard, its token in a temporary HOME.

    One for all tests; a test that ends it is followed by another one.
    """
    return started_ray()


@pytest.fixture(scope="session")
def s3_endpoint():
    """``host:port`` of an S3 server on the loopback interface; its credentials are in the environment meanwhile."""
    from stores import AWS, moto_server

    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWS.items():
            patch.setenv(name, value)
        with moto_server() as endpoint:
            yield endpoint


@pytest.fixture
def place(request, tmp_path):
    """A new store's place of the kind that the test asks for (`stores.KINDS`)."""
    from stores import make_place

    return make_place(request.param, tmp_path, request)


def pytest_unconfigure(config):
    shutil.rmtree(HOME, ignore_errors=True)
