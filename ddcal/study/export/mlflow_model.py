"""A calibrated model as an MLflow model: its code as a file, the network as an exported program, no pickle."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ddcal.errors import BadInput
from ddcal.study.export.program import Predict
from ddcal.study.mlflow.client import one_line, silence

CODE = Path(__file__).with_name("served_model.py")
REQUIREMENTS = ("mlflow", "torch", "numpy")


def save_mlflow_model(
    folder: Path, program: Path, example: np.ndarray, classes: int, description: dict[str, Any]
) -> None:
    """Write an MLflow model whose ``predict`` takes images and gives calibrated probabilities.

    Args:
        folder: The folder to create.
        program: The exported program; copied.
        example: Images, float32 (N, C, S, S) in [0, 1]: the input example. Its shape without N is the signature's.
        classes: Width of the probabilities.
        description: JSON values: the model's metadata.

    Raises:
        BadInput: if MLflow refuses it.
    """
    silence()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"  # or a uv project in the working folder would be copied
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    def tensor(shape: tuple[int, ...]) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])

    try:
        mlflow.pyfunc.save_model(
            folder,
            python_model=CODE,
            artifacts={"program": str(program)},
            signature=ModelSignature(tensor(example.shape[1:]), tensor((classes,))),
            input_example=example,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata=description,
        )
    except MlflowException as error:
        raise BadInput(f"--model mlflow: MLflow does not write this model: {one_line(error)}") from error
    model = Model.load(folder)
    flavour = model.flavors["python_function"]  # which holds paths of this machine, for nothing
    flavour["model_code_path"] = CODE.name
    flavour["artifacts"]["program"]["uri"] = flavour["artifacts"]["program"]["path"]
    model.save(folder / "MLmodel")


def load_mlflow_model(folder: Path) -> Predict:
    """Return ``predict`` of a written model, loaded as MLflow's scoring server loads it."""
    silence()
    import mlflow

    return mlflow.pyfunc.load_model(str(folder)).predict
