"""Files of distilled tensors that others published: read without running anything in them, and checked.

Images and labels lie in one file or in two: ``.pt`` (tensors, a pair, a mapping, or the list of pairs that DC, DSA and
DM save; see `ddcal.distill.importing.foreign`), ``.npz`` (without pickle) or ``.safetensors``, under ``images`` and
``labels``.
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
from torch import Tensor

from ddcal.config.backbones import FileConfig
from ddcal.distill.importing.foreign import load_foreign
from ddcal.errors import BadInput, one_line
from ddcal.soft_labels import probability_problem, targets
from ddcal.untrusted import Untrusted

SUFFIXES = (".pt", ".pth", ".npz", ".safetensors")
IMAGES, LABELS, INDEX = "distill.file.images", "distill.file.labels", "distill.file.index"
LABELS_ARE = "distill.file.labels_are"
SMALL = 2**26
"""A view that repeats the bytes of its file may have so many."""
NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
"""The dtypes of tensors that are read."""
PAIRS = "data"
"""Where the files of DC, DSA and DM have their list of [images, labels]."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an imported set: the setting, its value, and what is wrong and would be right."""

    key: str
    value: Any
    message: str

    def __str__(self) -> str:
        return one_line(f"{self.key}: {self.value!r} is not allowed: {self.message}")


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
        labels: (M,), int64 if it was any integer dtype, or whole numbers of another, (M,) or (M, 1); others as they
            are, soft ones (M, K) among them.
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
    found["labels"] = _whole(found["labels"])
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
    said = {"preprocessing", "mean", "std", "lr", "labels_are"}
    return config.model_dump(mode="json", include=said) | {"digest": digest}


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
    if images.ndim == 0:
        return faults
    label_path = (LABELS, config.labels) if config.labels else (IMAGES, path)
    if config.labels_are != "classes":
        faults += _soft_faults(tensors, config.labels_are, label_path, ipc, shape)
    elif labels.dtype != torch.int64 or labels.ndim != 1 or len(labels) != len(images):
        what = f"labels of shape {tuple(labels.shape)}; for these images it must be ({len(images)},)"
        if labels.dtype != torch.int64:
            what = f"labels of {labels.dtype} of shape {tuple(labels.shape)}; they must be whole numbers"
        mend = f": say {LABELS_ARE} 'logits' or 'probabilities', or store labels.argmax(1), the class of each"
        faults.append(Fault(*label_path, f"has {what}{mend if labels.ndim == 2 else ''}"))
    elif len(labels) == 0 or int(labels.min()) < 0:
        what = "no labels" if len(labels) == 0 else f"label {int(labels.min())}"
        faults.append(Fault(*label_path, f"has {what}; labels must be 0 … K-1"))
    else:
        faults += _balance_faults(labels, label_path, ipc, shape)
    return faults


def probabilities(labels: Tensor, kind: str) -> Tensor:
    """Return soft labels as they were stored, (M, K), as probabilities, float32 (M, K).

    Args:
        labels: Finite; probabilities are divided by their sum.
        kind: ``logits`` or ``probabilities``.
    """
    values = labels.double()
    return (values.softmax(1) if kind == "logits" else values / values.sum(1, keepdim=True)).float()


def label_order(labels: Tensor) -> Tensor | None:
    """Return the order that puts a set with soft labels class by class, int64 (M,); None if there is none.

    The class of an image is its most probable one, where every class has as many of them. Learned labels may have come
    to say other classes: then it is the image's place, as long as most labels agree with that.

    Args:
        labels: Probabilities float32 (M, K).
    """
    likely, count = labels.argmax(1), len(labels) // labels.shape[1]
    if bool((torch.bincount(likely, minlength=labels.shape[1]) == count).all()):
        return torch.argsort(likely, stable=True)
    if targets(labels).ndim == 1:  # classes after all, of which not all have as many images
        return None
    places = torch.arange(labels.shape[1]).repeat_interleave(count)
    return torch.arange(len(labels)) if bool((likely == places).double().mean() > 0.5) else None


def _soft_faults(
    tensors: TensorFile, kind: str, place: tuple[str, str | None], ipc: int, shape: tuple[int, int, int] | None
) -> list[Fault]:
    labels, count = tensors.labels, len(tensors.images)
    classes = shape[0] if shape is not None else labels.shape[-1] if labels.ndim == 2 else None
    if labels.ndim != 2 or tuple(labels.shape) != (count, classes) or not classes:
        right = f"({count}, {classes or 'K'})"
        what = f"has labels of shape {tuple(labels.shape)}; as {kind} ({LABELS_ARE}) of these images it must be {right}"
        return [Fault(*place, what)]
    finite = torch.isfinite(labels).all(1)
    if not bool(finite.all()):
        return [Fault(*place, f"has NaN or infinite values in {int((~finite).sum())} of {count} labels")]
    if kind == "probabilities" and (problem := _row_problem(labels)):
        message = f"must be 'logits', or {place[1]} other numbers: {problem}"
        return [Fault(LABELS_ARE, kind, message)]
    if count % labels.shape[1]:
        return [Fault(*place, f"has {count} labels of {labels.shape[1]} classes; a distilled set has the same of each")]
    if count != ipc * labels.shape[1]:
        low = count // labels.shape[1]
        return [Fault("distill.ipc", ipc, f"must be {low}: {place[1]} has {low} images of every class")]
    if label_order(probabilities(labels, kind)) is None:
        counts = torch.bincount(labels.argmax(1), minlength=labels.shape[1]).tolist()
        message = (
            f"has {counts} labels whose most probable class is 0, 1, …, and they do not agree with {ipc} images of "
            "each class in order: store the images class by class"
        )
        return [Fault(*place, message)]
    return []


def _row_problem(labels: Tensor) -> str:
    return probability_problem(labels if labels.is_floating_point() else labels.double())


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
    if shape is None and int(labels.max()) >= len(labels):
        return [Fault(*place, f"has label {int(labels.max())} and {len(labels)} labels; they must be 0 … K-1")]
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
    try:
        return load_foreign(place, ("images", "labels"))
    except FileNotFoundError:
        raise TensorFileError(
            Fault(key, path, "there is no such file; give the path of the published tensors")
        ) from None
    except Untrusted as error:
        raise TensorFileError(Fault(key, path, str(error))) from error
    except OSError as error:
        raise TensorFileError(Fault(key, path, f"cannot be read: {error.strerror or error}")) from error


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
        if value.dtype.kind == "u" and value.size and int(value.max()) > torch.iinfo(torch.int64).max:
            raise TensorFileError(Fault(key, path, f"holds {int(value.max())} in {name}, which is beyond 63 bits"))
        dtype = np.dtype(np.float64) if value.dtype.itemsize > 8 else value.dtype.newbyteorder("=")
        if value.dtype.kind == "u" and value.dtype.itemsize > 1:
            dtype = np.dtype(np.int64)
        value = torch.from_numpy(np.ascontiguousarray(value.astype(dtype)).reshape(value.shape))
    if isinstance(value, np.ndarray):
        what = f"{value.dtype} of shape {value.shape}"
        if value.dtype.kind in "SU":
            what = f"text ({', '.join(repr(str(one)[:40]) for one in np.unique(value)[:3])})"
        right = "floats, or uint8 (pixels)" if name == "images" else "whole numbers, 0 … K-1"
        raise TensorFileError(Fault(key, path, f"holds {what} as {name}; they must be {right}"))
    if not isinstance(value, Tensor):
        raise TensorFileError(Fault(key, path, f"holds a {type(value).__name__} as {name}; it must be a tensor"))
    if value.layout != torch.strided or value.dtype not in NUMBERS or value.device.type != "cpu":
        raise TensorFileError(Fault(key, path, f"holds {name} that are no plain numbers ({value.dtype})"))
    value = value.detach()
    needed, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if needed > max(stored, SMALL):
        raise TensorFileError(
            Fault(key, path, f"holds {name} of shape {tuple(value.shape)} as a view that repeats {stored:,} bytes")
        )
    return value.contiguous()


def _whole(labels: Tensor) -> Tensor:
    """Return labels as int64 (M,) where they are whole numbers, else as they are."""
    row = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.dtype == torch.bool:
        return labels
    if not labels.is_floating_point():
        return row.long()
    values = row.double()
    whole = row.ndim == 1 and bool(((values == values.floor()) & (values.abs() < 2**31)).all())
    return values.long() if whole else labels


def _held(content: Any) -> str:
    if isinstance(content, Mapping):
        names = [str(name)[:40] for name in content]
        return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"
    if isinstance(content, list | tuple):
        return f"a {type(content).__name__} of {len(content)}"
    return f"a {type(content).__name__}"
