"""A calibrated model as a file that other programs run: a ``torch.export`` program, or ONNX.

Neither holds a pickle, nor paths of the machine that wrote it; both take any number of images.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from ddcal.errors import BadInput, cut
from ddcal.pipeline.calibrated import CalibratedModel

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "images", "probabilities"

Predict = Callable[[np.ndarray], np.ndarray]
"""Images, float32 (N, C, S, S) in [0, 1], to probabilities, float32 (N, K)."""


def check_onnx_packages() -> None:
    """Raise BadInput, with what to install, unless a model can be written as ONNX and tried."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise BadInput(f"--model onnx needs {', '.join(missing)}: pip install 'ddcal[onnx]'")


def trace(model: CalibratedModel, images: torch.Tensor) -> ExportedProgram:
    """Return the model as a program for any number of images.

    Args:
        model: On the CPU.
        images: Two or more, float32 (N, C, S, S); their values do not matter.

    Raises:
        BadInput: if torch cannot trace the network.
    """
    try:
        program = torch.export.export(model, (images,), dynamic_shapes={INPUT: {0: Dim("batch")}})
    except Exception as error:  # torch.export has no common class of its refusals
        raise BadInput(f"--model: torch.export cannot trace this network: {first_line(error)}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write ``program`` for ``torch.export.load``."""
    program.example_inputs = None  # the only part that would be stored as a pickle
    torch.export.save(program, path)


def load_program(path: Path) -> Predict:
    """Return what a written program computes."""
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).numpy()


def save_onnx(program: ExportedProgram, path: Path) -> None:
    """Write ``program`` as one ONNX file with the input ``images`` and the output ``probabilities``.

    Raises:
        BadInput: if an operation of the network has no form in ONNX.
    """
    try:
        converted = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, external_data=False
        )
    except Exception as error:
        raise BadInput(f"--model onnx: this network cannot be written as ONNX: {first_line(error)}") from error
    assert converted is not None
    converted.save(path, external_data=False)


def load_onnx(path: Path) -> Predict:
    """Return what ONNX Runtime computes with a written file, on the CPU with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def first_line(error: Exception) -> str:
    """Return an error's kind and first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {cut(lines[0], 200) if lines else ''}"
