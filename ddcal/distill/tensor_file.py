"""Files of distilled tensors that others published: read without running anything in them, and checked.

Images and labels lie in one file or in two: ``.pt`` (tensors, a pair, a mapping, or the list of pairs that DC, DSA and
DM save; read with ``weights_only``), ``.npz`` (without pickle) or ``.safetensors``, under ``images`` and ``labels``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ddcal.config.backbones import FileConfig
from ddcal.errors import BadInput

SUFFIXES = (".pt", ".pth", ".npz", ".safetensors")
IMAGES, LABELS, INDEX = "distill.file.images", "distill.file.labels", "distill.file.index"
PAIRS = "data"
"""Where the files of DC, DSA and DM have their list of [images, labels]."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an imported set: the setting, its value, and what is wrong and would be right."""

    key: str
    value: Any
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.value!r} is not allowed: {self.message}"


class TensorFileError(BadInput):
    """A set that cannot be imported.

    Attributes:
        faults: Everything that is wrong.
    """

    def __init__(self, *faults: Fault):
        self.faults = faults
        super().__init__("\n".join(map(str, faults)))


@dataclass(frozen=True)
class TensorFile:
    """A set as it was stored.

    Attributes:
        images: (M, …), any dtype; nothing is checked.
        labels: (M,), int64 if it was any integer dtype.
        digest: sha256 of both, in hex: of the numbers with their dtypes and shapes, whatever the file's format.
    """

    images: Tensor
    labels: Tensor
    digest: str


def read_tensor_file(config: FileConfig) -> TensorFile:
    """Read a set.

    Raises:
        TensorFileError: if a file is missing, damaged, refused or does not hold such tensors.
    """
    assert config.images is not None
    images, labels = _parts(_load(IMAGES, config.images), config)
    if config.labels is not None:
        content = _load(LABELS, config.labels)
        labels = content.get("labels") if isinstance(content, Mapping) else content
        if labels is None:
            raise TensorFileError(Fault(LABELS, config.labels, f"must hold 'labels'; it holds {_held(content)}"))
    if labels is None:
        raise TensorFileError(
            Fault(IMAGES, config.images, "holds no labels: give the file that does as distill.file.labels")
        )
    found = {
        name: _tensor(key, path, name, value)
        for key, path, name, value in (
            (IMAGES, config.images, "images", images),
            (LABELS if config.labels else IMAGES, config.labels or config.images, "labels", labels),
        )
    }
    if not found["labels"].is_floating_point() and found["labels"].dtype != torch.bool:
        found["labels"] = found["labels"].long()
    digest = hashlib.sha256(b"distilled tensors 1")
    for name, tensor in found.items():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return TensorFile(found["images"], found["labels"], digest.hexdigest())


def content_digest(config: FileConfig) -> str:
    """Return the digest of a set, read once for each state (size and time) of its files.

    Raises:
        TensorFileError: as `read_tensor_file`.
    """
    states = []
    for path in filter(None, (config.images, config.labels)):
        try:
            status = Path(path).expanduser().stat()
            states.append((status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError:  # `read_tensor_file` says so
            states.append((0, 0, 0))
    return _digest(config.images, config.labels, config.index, tuple(states))


def file_identity(config: FileConfig, digest: str) -> dict[str, Any]:
    """Return what decides over an imported set, as JSON: its content and what is said of it, not where it lies."""
    return config.model_dump(mode="json", include={"preprocessing", "mean", "std", "lr"}) | {"digest": digest}


def check_tensors(
    tensors: TensorFile, config: FileConfig, ipc: int, shape: tuple[int, int, int] | None = None
) -> list[Fault]:
    """Return everything about a set that does not fit the trial.

    Args:
        tensors: The set.
        config: What is said of it.
        ipc: Images per class.
        shape: (classes, channels, side) of the dataset; None leaves out what depends on it.
    """
    images, labels, path = tensors.images, tensors.labels, config.images
    faults = _image_faults(images, config, shape)
    label_path = (LABELS, config.labels) if config.labels else (IMAGES, path)
    if labels.dtype != torch.int64:
        faults.append(Fault(*label_path, f"has labels of {labels.dtype}; they must be whole numbers (no soft labels)"))
    elif labels.ndim != 1 or len(labels) != len(images):
        faults.append(
            Fault(
                *label_path, f"has labels of shape {tuple(labels.shape)}; for these images it must be ({len(images)},)"
            )
        )
    elif len(labels) == 0 or int(labels.min()) < 0:
        what = "no labels" if len(labels) == 0 else f"label {int(labels.min())}"
        faults.append(Fault(*label_path, f"has {what}; labels must be 0 … K-1"))
    else:
        faults += _balance_faults(labels, label_path, ipc, shape)
    return faults


def _image_faults(images: Tensor, config: FileConfig, shape: tuple[int, int, int] | None) -> list[Fault]:
    key, path = IMAGES, config.images
    if images.dtype != torch.uint8 and not images.is_floating_point():
        return [Fault(key, path, f"has images of {images.dtype}; they must be floats, or uint8 (pixels)")]
    if images.ndim != 4 or 0 in images.shape:
        return [Fault(key, path, f"has images of shape {tuple(images.shape)}; it must be (M, C, S, S), none of them 0")]
    faults = []
    channels, *sides = images.shape[1:]
    if shape is not None and (channels, *sides) != (shape[1], shape[2], shape[2]):
        last = tuple(images.shape[1:]) == (shape[2], shape[2], shape[1])
        hint = "; this looks like (M, S, S, C): move the channels" if last else ""
        right = f"(M, {shape[1]}, {shape[2]}, {shape[2]})"
        faults.append(
            Fault(key, path, f"has images of shape {tuple(images.shape)}; for this dataset it must be {right}{hint}")
        )
    elif config.mean is not None and len(config.mean) != channels:
        faults.append(
            Fault("distill.file.mean", config.mean, f"must be {channels} numbers, one a channel of the images")
        )
    if images.dtype == torch.uint8:
        if config.preprocessing != "pixels":
            message = "must be 'pixels': the images are uint8, so nothing was done to them"
            faults.append(Fault("distill.file.preprocessing", config.preprocessing, message))
    elif not bool(torch.isfinite(images).all()):
        bad = int((~torch.isfinite(images.flatten(1)).all(1)).sum())
        faults.append(Fault(key, path, f"has NaN or infinite values in {bad} of {len(images)} images"))
    elif config.preprocessing == "pixels" and not 0.0 <= float(images.min()) <= float(images.max()) <= 1.0:
        low, high = float(images.min()), float(images.max())
        message = (
            f"has floats from {low:.4g} to {high:.4g}, and pixels are in [0, 1] (or uint8): divide by 255, clamp, or "
            "say 'normalized' with the mean and std that were used (mean 0 and std 1 for pixels that overshoot)"
        )
        faults.append(Fault(key, path, message))
    return faults


def _balance_faults(
    labels: Tensor, place: tuple[str, str | None], ipc: int, shape: tuple[int, int, int] | None
) -> list[Fault]:
    classes = shape[0] if shape is not None else int(labels.max()) + 1
    if int(labels.max()) >= classes:
        return [Fault(*place, f"has label {int(labels.max())}; this dataset has labels 0 … {classes - 1}")]
    counts = torch.bincount(labels, minlength=classes)
    low, high = int(counts.min()), int(counts.max())
    if low != high:
        few, many = int(counts.argmin()), int(counts.argmax())
        message = f"has {high} images of class {many} and {low} of class {few}; a distilled set has the same of each"
        return [Fault(*place, message)]
    if low != ipc:
        return [Fault("distill.ipc", ipc, f"must be {low}: {place[1]} has {low} images of every class")]
    return []


@functools.lru_cache(maxsize=64)
def _digest(images: str | None, labels: str | None, index: int, states: tuple[tuple[int, int, int], ...]) -> str:
    return read_tensor_file(FileConfig(images=images, labels=labels, index=index)).digest


def _load(key: str, path: str) -> Any:
    """Return what a file holds: a tensor, or a mapping, list or tuple of them."""
    place = Path(path).expanduser()
    if place.suffix not in SUFFIXES:
        raise TensorFileError(Fault(key, path, f"must end in one of {', '.join(SUFFIXES)}"))
    if not place.is_file():
        what = "is a folder" if place.is_dir() else "there is no such file"
        raise TensorFileError(Fault(key, path, f"{what}; give the path of the published tensors"))
    try:
        if place.suffix == ".npz":
            with np.load(place, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if place.suffix == ".safetensors":
            return load_file(place)
        return torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the parsers make of foreign bytes
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        how = {".npz": "an .npz of plain arrays", ".safetensors": "safetensors"}.get(
            place.suffix, "tensors alone (weights_only; nothing else in a .pt is ever run)"
        )
        raise TensorFileError(Fault(key, path, f"cannot be read as {how}: {said}")) from error


def _parts(content: Any, config: FileConfig) -> tuple[Any, Any]:
    """Return (images, labels or None) of what the images' file holds."""
    if isinstance(content, Mapping) and isinstance(content.get(PAIRS), list):
        pairs = content[PAIRS]
        if config.index >= len(pairs):
            raise TensorFileError(
                Fault(INDEX, config.index, f"must be below {len(pairs)}: {config.images} holds so many")
            )
        content = pairs[config.index]
    elif config.index:
        raise TensorFileError(Fault(INDEX, config.index, f"must be 0: {config.images} holds one set"))
    if isinstance(content, Mapping):
        if "images" not in content:
            raise TensorFileError(Fault(IMAGES, config.images, f"must hold 'images'; it holds {_held(content)}"))
        return content["images"], content.get("labels")
    if isinstance(content, list | tuple):
        if len(content) != 2:
            raise TensorFileError(
                Fault(IMAGES, config.images, f"holds {_held(content)}; it must be one tensor, or images and labels")
            )
        return content[0], content[1]
    return content, None


def _tensor(key: str, path: str, name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="))))
    if not isinstance(value, Tensor):
        raise TensorFileError(Fault(key, path, f"holds a {type(value).__name__} as {name}; it must be a tensor"))
    if value.layout != torch.strided or value.is_complex() or value.is_quantized:
        raise TensorFileError(Fault(key, path, f"holds {name} that are no plain numbers ({value.dtype})"))
    return value.detach().cpu().contiguous()


def _held(content: Any) -> str:
    if isinstance(content, Mapping):
        names = [str(name)[:40] for name in content]
        return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {len(content)}"
    return f"a {type(content).__name__}"
