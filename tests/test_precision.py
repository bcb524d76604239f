"""Precision and determinism are stated by what computes, and by nothing that is imported alone."""

import os
import subprocess
import sys

CODE = """
import os, torch
from torch.backends import cuda, cudnn, mkldnn

def found():
    precisions = [cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.matmul]
    return [*(one.fp32_precision for one in precisions), cudnn.allow_tf32, cuda.matmul.allow_tf32]

def repeats():
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, workspace

def spoil():
    torch.set_float32_matmul_precision("medium")
    mkldnn.conv.fp32_precision = "bf16"
    cudnn.allow_tf32 = True
    assert found() == SPOILT

EXACT, SPOILT = [*["ieee"] * 5, False, False], ["tf32", "tf32", "tf32", "bf16", "bf16", True, True]
before = found(), repeats()
from tiny_sets import tiny_config, tiny_dataset
from ddcal.config import TrainConfig
from ddcal.config.presets import TRAIN_DEFAULTS
from ddcal.distill import distill, make_distiller
from ddcal.pipeline import Environment
from ddcal.precision import state_determinism, state_precision
from ddcal.training import DDNNTraining
assert (found(), repeats()) == before, "an import has changed it"

values = {"epochs": 1, "lr": 0.1, "batch_size": 8, "augment": "none", "weight_decay": 0.0, "network": {"width": 4}}
recipe, dataset = TrainConfig.model_validate(TRAIN_DEFAULTS | values), tiny_dataset()
sides = {"num_classes": 3, "flip": False, "seed": 0}

def train(**more):
    DDNNTraining(dataset.train.images, dataset.train.labels, recipe, **sides, **more)

for states in (
    state_precision,
    Environment("cpu", 1).apply,
    lambda: distill(dataset, tiny_config("dm", iterations=1), 0),
    lambda: make_distiller(dataset, tiny_config("dm"), 0),
    train,
):
    spoil()
    states()
    assert found() == EXACT, (states, found())
spoil()
train(precision=None)
make_distiller(dataset, tiny_config("dm"), 0, precision=None)
assert found() == SPOILT, found()

state_precision("tf32")
assert found() == ["tf32", "tf32", "ieee", "ieee", "ieee", True, False], found()
try:
    state_precision("half")
except ValueError as error:
    assert "'half'" in str(error)
else:
    raise SystemExit("a precision that there is not")

state_determinism("cpu")
assert repeats() == before[1], "the CPU needs no more"
state_determinism(torch.device("cuda", 0))
assert repeats() == (True, True, ":4096:8") and torch.is_deterministic_algorithms_warn_only_enabled()
assert not torch.utils.deterministic.fill_uninitialized_memory and not cudnn.benchmark
"""


def test_a_process_states_it_where_it_computes():
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(__file__), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
