"""Fixed-seed runs on digits: the same bits in another process, and the numbers of ddcal 0.1.0 (but rtp's)."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from ddcal.config import DataConfig, DistillConfig
from ddcal.data import load_dataset
from ddcal.distill import distill

SETTINGS = {
    "ipc": 2,
    "iterations": 3,
    "matching": {"outer": 2, "inner": 2, "image_lr": 1.0},
    "mtt": {"student_steps": 3, "max_start": 2, "image_lr": 100.0, "experts": {"count": 1}},
    "rtp": {"bases": 4, "steps": 3},
    "mask": {"ratio": 0.1},
    "network": {"width": 8},
}
GOLDEN = {
    "real": (-0.03010, 0.98925, -0.81216, 0.01734),
    "dc": (0.08472, 1.28378, -0.14711, 0.45531),
    "dsa": (-0.00490, 1.08835, -0.34853, 0.66997),
    "dm": (-0.02379, 0.99157, -0.60436, -0.04109),
    "mtt": (-0.03077, 1.03938, -0.73762, 0.43921),
    "rtp": (0.00005, 0.04079, -0.00100, 0.00180),
}
"""Backbone → mean, standard deviation, and the element (2, 4) of the first and last image.

Those of rtp are twice what ddcal 0.1.0 gave: its 4 bases of 1×4×4 pixels began half as large as they should
(√(6 / (4 + 16)) where a convolution's fans gave √(6 / (4·16 + 16))).
"""

SHAPES = {"rtp": 300}

SCRIPT = """
import hashlib, json, sys, torch
torch.set_num_threads(1)
from ddcal.config import DataConfig, DistillConfig
from ddcal.data import load_dataset
from ddcal.distill import distill
dataset = load_dataset(DataConfig())
for backbone in ("rtp", "dsa", "real", "mtt", "dc", "dm"):
    config = DistillConfig.model_validate({"backbone": backbone, **json.loads(sys.argv[1])})
    images = distill(dataset, config, 7).images
    print(backbone, hashlib.sha256(images.numpy().tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def digits():
    return load_dataset(DataConfig())


@pytest.fixture(scope="module")
def hashes_of_another_process():
    command = [sys.executable, "-c", SCRIPT, json.dumps(SETTINGS)]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=600).stdout
    return dict(line.split() for line in output.splitlines())


@pytest.mark.parametrize("backbone", ["real", "dc", "dsa", "dm", "mtt", "rtp"])
def test_golden_run(backbone, digits, hashes_of_another_process):
    images = distill(digits, DistillConfig.model_validate({"backbone": backbone, **SETTINGS}), 7).images
    assert images.shape == (SHAPES.get(backbone, 20), 1, 8, 8) and images.dtype == torch.float32
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == hashes_of_another_process[backbone]
    found = [images.mean(), images.std(), images[0, 0, 2, 4], images[-1, 0, 2, 4]]
    assert [float(value) for value in found] == pytest.approx(GOLDEN[backbone], abs=1e-3)
