"""Tiny trials on digits: a fraction of a second each."""

import pytest
import torch

from ddcal.config import TrialConfig
from ddcal.pipeline import DatasetCache, Environment

TINY = {
    "network": {"width": 4},
    "distill": {
        "backbone": "dc",
        "ipc": 2,
        "iterations": 4,
        "matching": {"outer": 2, "inner": 1, "real_batch": 8},
        "mask": {"ratio": 0.1},
        "probe": {"points": 2, "epochs": 2},
    },
    "train": {"epochs": 3, "networks": 2},
}


def tiny_trial(**changes):
    """A TrialConfig from dotted names (``distill__backbone="dc"``) over `TINY`."""
    values = {section: dict(settings) for section, settings in TINY.items()}
    for name, value in changes.items():
        place = values
        *path, last = name.split("__")
        for part in path:
            place[part] = dict(place.get(part, {}))
            place = place[part]
        place[last] = value
    return TrialConfig.model_validate(values)


@pytest.fixture(scope="session")
def make_trial():
    return tiny_trial


@pytest.fixture(scope="session")
def datasets():
    return DatasetCache()


@pytest.fixture(scope="session")
def environment():
    return Environment(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def threads_as_before():
    """A runner sets torch's thread count."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
