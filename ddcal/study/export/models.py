"""Calibrated models in an export: which network, in which formats, and the proof that each gives what evaluate scored.

``mlflow``: ``model/``, for ``mlflow models serve``. ``torch``: ``model.pt2``, for ``torch.export.load``. ``onnx``:
``model.onnx``. Each takes images and gives calibrated probabilities; preprocessing and calibration are inside.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal.errors import BadInput
from ddcal.store.base import Entry, file_sha256
from ddcal.study.record.results import StudyResults, Trial

if TYPE_CHECKING:
    import numpy as np

    from ddcal.data import Dataset
    from ddcal.pipeline.calibrated import CalibratedModel
    from ddcal.study.export.program import Predict

PLACES = {"mlflow": "model", "torch": "model.pt2", "onnx": "model.onnx"}
"""Format → its file or folder in the export."""

PREPROCESSING = "networks/preprocessing.safetensors"
"""What maps images to inputs of the networks beside it; the file's metadata says its kind."""

CHECKED = 64
"""How many test images every written model is tried on."""

TOLERANCE, CUDA_TOLERANCE = 1e-3, 2e-2
"""How far a probability may be from evaluate's: the test images of the check are inverted inputs, and a GPU's logits
were computed by other kernels. Another network, preprocessing or temperature is much further off."""


@dataclass(frozen=True)
class ModelRequest:
    """Which models an export shall hold: formats, in the order of `PLACES`, of one network, counted from 0."""

    formats: tuple[str, ...]
    network: int = 0


@dataclass(frozen=True, eq=False)
class ReadyModel:
    """A model that can be written.

    Attributes:
        request: What was asked for.
        model: The network with its preprocessing and calibration.
        dataset: The trial's real data.
        description: JSON values: what the model is.
        images: Test images in [0, 1], float32 (N, C, S, S).
        expected: Their probabilities as evaluate had them, float32 (N, K).
        example: Images that may be shown to anyone, float32 (M, C, S, S) in [0, 1].
        tolerance: How far a probability may be from ``expected``.
    """

    request: ModelRequest
    model: CalibratedModel
    dataset: Dataset
    description: dict[str, Any]
    images: np.ndarray
    expected: np.ndarray
    example: np.ndarray
    tolerance: float


def model_request(formats: list[str] | None, network: int | None = None) -> ModelRequest | None:
    """Return what ``--model`` and ``--network`` ask for; None without ``--model``.

    Args:
        formats: Formats, or several in one string, separated by commas.
        network: Which network, from 0; None: the first.

    Raises:
        BadInput: for an unknown format, a network without a format, or a format whose packages are not installed.
    """
    if not formats:
        if network is not None:
            raise BadInput(f"--network {network} chooses the network of --model: give --model, too")
        return None
    names = [name.strip() for given in formats for name in given.split(",")]
    for name in names:
        if name not in PLACES:
            raise BadInput(f"--model {name}: it must be one of {', '.join(PLACES)}")
    if "onnx" in names:
        from ddcal.study.export.program import check_onnx_packages

        check_onnx_packages()
    return ModelRequest(tuple(name for name in PLACES if name in names), network or 0)


def check_model(results: StudyResults, trial: Trial, request: ModelRequest) -> None:
    """Refuse, before anything is written, a trial without such a network.

    Raises:
        BadInput: naming the trial and what it has.
    """
    if results.study.trial == "distill":
        raise BadInput(f"--model: {trial.trial_key} ends with the distilled set (trial: distill), it has no network")
    count = trial.config.train.networks
    if not 0 <= request.network < count:
        raise BadInput(f"--network {request.network}: {trial.trial_key} has networks 0 to {count - 1}")


def ready_model(trial: Trial, entries: dict[str, Entry], request: ModelRequest, device: str) -> ReadyModel:
    """Return the model that was asked for, built from a trial's finished stages; nothing is written.

    Args:
        trial: Finished with metrics.
        entries: Its stages.
        request: Checked by `check_model`.
        device: Where the trial was computed, ``cpu`` or ``cuda``.

    Raises:
        BadInput: if the calibration cannot be a part of a model, or the data is missing here or not the trial's.
    """
    import torch
    from safetensors.torch import load_file

    from ddcal.config import resolve
    from ddcal.data import load_dataset
    from ddcal.pipeline.calibrated import calibrated_model
    from ddcal.pipeline.compute.train import LOGITS, NETWORKS

    config = resolve(trial.config)
    fits = entries["calibrate"].meta["values"]["fits"]
    dataset = load_dataset(config.data)
    if dataset.fingerprint != trial.fingerprint:
        raise BadInput(
            f"--model: this {config.data.name} has the fingerprint {dataset.fingerprint[:16]}…, the trial used "
            f"{str(trial.fingerprint)[:16]}…: other data has another preprocessing"
        )
    weights = load_file(entries["train"].folder / NETWORKS)
    model = calibrated_model(config, dataset, weights, fits, request.network)
    logits = load_file(entries["train"].folder / LOGITS)["test_logits"][request.network, :CHECKED]
    images = dataset.inverse_transform(dataset.test.images[:CHECKED])
    channels, side = dataset.channels, dataset.image_size
    if "distill" in entries:
        from ddcal.distill import SyntheticSet

        synthetic = SyntheticSet.load(entries["distill"].folder)
        example = dataset.inverse_transform(synthetic.images[:: synthetic.images_per_class][:2])
    else:
        example = torch.full((2, channels, side, side), 0.5)  # a real image may not be shown to everyone
    description = {
        "trial_key": trial.trial_key,
        "network": request.network,
        "calibration": config.calibrate.method,
        "temperature": fits[request.network]["temperature"],
        "input": {"name": "images", "dtype": "float32", "shape": [-1, channels, side, side], "range": [0.0, 1.0]},
        "output": {"name": "probabilities", "dtype": "float32", "shape": [-1, dataset.num_classes]},
        "classes": list(dataset.class_names),
    }
    return ReadyModel(
        request,
        model,
        dataset,
        description,
        images.contiguous().numpy(),
        model.calibration(logits).numpy(),
        example.contiguous().numpy(),
        TOLERANCE if device == "cpu" else CUDA_TOLERANCE,
    )


def write_models(folder: Path, ready: ReadyModel) -> dict[str, Any]:
    """Write a model in every format that was asked for, and try each as a user would load it.

    Args:
        folder: The export, being written.
        ready: The model.

    Returns:
        JSON values for run.yaml: the description, the formats and the sha256 of every file.

    Raises:
        BadInput: if a format cannot hold the network, or does not give evaluate's probabilities.
    """
    import torch
    from safetensors.torch import save

    from ddcal.study.export import program as exported_program

    preprocessing = ready.dataset.preprocessing
    tensors = {name: value.contiguous() for name, value in preprocessing.to_tensors().items()}
    (folder / PREPROCESSING).write_bytes(save(tensors, {"kind": preprocessing.kind}))
    program = exported_program.trace(ready.model, torch.from_numpy(ready.images[:2]))
    if "onnx" in ready.request.formats:  # first: to save the program changes it
        exported_program.save_onnx(program, folder / PLACES["onnx"])
        _check(exported_program.load_onnx(folder / PLACES["onnx"]), ready, "onnx")
    path = folder / PLACES["torch"]
    exported_program.save_program(program, path)
    _check(exported_program.load_program(path), ready, "torch")
    if "mlflow" in ready.request.formats:
        from ddcal.study.export.mlflow_model import load_mlflow_model, save_mlflow_model

        with tempfile.TemporaryDirectory(prefix="ddcal-") as scratch:  # MLflow takes a path with ? # % for a URL
            made = Path(scratch) / PLACES["mlflow"]
            program_there = shutil.copyfile(path, Path(scratch) / path.name)
            save_mlflow_model(made, program_there, ready.example, ready.dataset.num_classes, ready.description)
            _check(load_mlflow_model(made), ready, "mlflow")
            shutil.move(made, folder / PLACES["mlflow"])
    if "torch" not in ready.request.formats:
        path.unlink()
    written = [folder / PREPROCESSING]
    for name in ready.request.formats:
        place = folder / PLACES[name]
        written += sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    files = {file.relative_to(folder).as_posix(): file_sha256(file) for file in written}
    return {**ready.description, "formats": list(ready.request.formats), "files": files}


def _check(predict: Predict, ready: ReadyModel, name: str) -> None:
    import numpy as np

    difference = float(np.abs(predict(ready.images) - ready.expected).max())
    if not difference <= ready.tolerance:
        raise BadInput(
            f"--model {name}: its probabilities differ from evaluate's by up to {difference:.2g} on the first "
            f"{len(ready.images)} test images (allowed: {ready.tolerance:g}), so it was not written"
        )
