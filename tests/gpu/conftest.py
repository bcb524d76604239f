"""A pretended CUDA device, and what runs on it."""

import math
from pathlib import Path

import pytest
from pretended_cuda import PretendedCuda
from tiny_sets import one_thread  # noqa: F401 - a fixture

import ddcal
from ddcal import precision
from ddcal.networks import block, pooling


@pytest.fixture
def cuda():
    """The device, which counts for ddcal's own lines."""
    with PretendedCuda(Path(ddcal.__file__).parent) as device:
        yield device


@pytest.fixture(autouse=True)
def one_form(monkeypatch):
    """The CPU computes what has two forms in the GPU's one, which has other last bits: see tests/data/test_warp.py.

    Pooling, and blocks that pool: see tests/networks/test_pooling.py and tests/networks/test_block.py.
    """
    monkeypatch.setattr(precision, "adds_in_any_order", lambda device: True)
    monkeypatch.setattr(pooling, "TINY", math.inf)
    monkeypatch.setattr(block, "LARGE", math.inf)
    monkeypatch.setattr(block, "LARGE_FORWARDS", math.inf)
