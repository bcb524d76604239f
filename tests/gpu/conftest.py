"""A pretended CUDA device, and what runs on it."""

from pathlib import Path

import pytest
from pretended_cuda import PretendedCuda
from tiny_sets import one_thread  # noqa: F401 - a fixture

import ddcal
from ddcal import precision


@pytest.fixture
def cuda():
    """The device, which counts for ddcal's own lines."""
    with PretendedCuda(Path(ddcal.__file__).parent) as device:
        yield device


@pytest.fixture(autouse=True)
def one_form(monkeypatch):
    """The CPU computes what has two forms in the GPU's one, which has other last bits: see tests/data/test_warp.py."""
    monkeypatch.setattr(precision, "adds_in_any_order", lambda device: True)
