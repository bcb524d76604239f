"""A pretended CUDA device, and what runs on it."""

from pathlib import Path

import pytest
from pretended_cuda import PretendedCuda
from tiny_sets import one_thread  # noqa: F401 - a fixture

import ddcal


@pytest.fixture
def cuda():
    """The device, which counts for ddcal's own lines."""
    with PretendedCuda(Path(ddcal.__file__).parent) as device:
        yield device
