"""From stored images to network inputs and back: scaling, resizing, then normalisation or ZCA whitening."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddcal.data.errors import DataError
from ddcal.data.fingerprint import write_atomically

CHUNK = 256
"""Images worked on at a time: bounds memory, and so few stay in the processor's cache between steps."""
ZCA_EPS = 0.1
ZCA_VERSION = 1
"""Raised whenever the same images give another whitening."""
NORMALISATION_VERSION = 1
"""Raised whenever the same images give another mean or deviation."""
MAX_ZCA_FEATURES = 3 * 64 * 64
"""Largest C·H·W that ZCA is fitted on; its matrices hold the square of that (600 MB each here)."""


@dataclass(frozen=True, eq=False)
class Normalisation:
    """(x − mean) / std with one mean and one std per channel, both float32 (C,)."""

    mean: Tensor
    std: Tensor
    kind: ClassVar[str] = "normalisation"

    def transform(self, images: Tensor) -> Tensor:
        """Return network inputs (N, C, H, W) of [0, 1] images (N, C, H, W), on their device."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return _in_chunks(images, lambda chunk: normalise(chunk, mean, std))

    def inverse_transform(self, images: Tensor) -> Tensor:
        """Return the images of which `transform` makes these network inputs; unclamped."""
        mean, std = (_per_channel(values, images) for values in (self.mean, self.std))
        return _in_chunks(images, lambda chunk: chunk * std + mean)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` needs, beside ``kind``."""
        return {"mean": self.mean, "std": self.std}


@dataclass(frozen=True, eq=False)
class Whitening:
    """ZCA (method.md, ZCA): (x − mean) · matrix on flattened images; float32 (1, F), (F, F), (F, F) with F = C·H·W."""

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    kind: ClassVar[str] = "zca"

    def transform(self, images: Tensor) -> Tensor:
        """Return network inputs (N, C, H, W) of [0, 1] images (N, C, H, W), on their device."""
        mean, matrix = self.mean.to(images.device), self.matrix.to(images.device)
        return _in_chunks(images, lambda chunk: whiten(chunk, mean, matrix))

    def inverse_transform(self, images: Tensor) -> Tensor:
        """Return the images of which `transform` makes these network inputs; unclamped."""
        mean, inverse = self.mean.to(images.device), self.inverse.to(images.device)
        return _in_chunks(images, lambda chunk: (chunk.flatten(1) @ inverse + mean).view_as(chunk))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return what `from_tensors` needs, beside ``kind``."""
        return {"mean": self.mean, "matrix": self.matrix, "inverse": self.inverse}


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (images − mean) / std of images (N, C, H, W); mean and std are (C,). Can be traced for any N."""
    return (images - mean[:, None, None]) / std[:, None, None]


def whiten(images: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Return (images − mean) · matrix of images (N, C, H, W); mean (1, F), matrix (F, F). Can be traced for any N."""
    return ((images.flatten(1) - mean) @ matrix).view_as(images)


Preprocessing = Normalisation | Whitening
Fitted = TypeVar("Fitted", Normalisation, Whitening)


def from_tensors(kind: str, tensors: dict[str, Tensor]) -> Preprocessing:
    """Return the preprocessing whose ``kind`` and ``to_tensors()`` these are.

    Raises:
        DataError: if the kind is unknown or the tensors are not the kind's.
    """
    for preprocessing in (Normalisation, Whitening):
        if kind == preprocessing.kind:
            expected = preprocessing.__dataclass_fields__.keys() - {"kind"}
            if tensors.keys() != expected:
                raise DataError(
                    f"preprocessing {kind!r} has tensors {sorted(tensors)}; it must have {sorted(expected)}"
                )
            return preprocessing(**tensors)
    raise DataError(f"preprocessing kind is {kind!r}; it must be {Normalisation.kind!r} or {Whitening.kind!r}")


def unit_images(images: np.ndarray | Tensor, indices: Tensor, resolution: int | None) -> Tensor:
    """Return the images at ``indices`` as float32 (N, C, S, S) in [0, 1], resized if a resolution is given.

    Args:
        images: (N, H, W, C), uint8 (divided by 255) or float32 in [0, 1]; a tensor may be on any device.
        indices: int64, which images and in which order.
        resolution: Side S after antialiased bilinear resizing, in pixels; None keeps the stored size.
    """
    stored = images if isinstance(images, Tensor) else torch.from_numpy(images)
    channels, side = images.shape[3], resolution or images.shape[1]
    result = torch.empty((len(indices), channels, side, side), device=stored.device)
    for start in range(0, len(indices), CHUNK):
        chunk = stored[indices[start : start + CHUNK]].permute(0, 3, 1, 2).float()
        if stored.dtype == torch.uint8:
            chunk = chunk / 255.0
        if side != images.shape[1]:
            chunk = F.interpolate(chunk, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
            chunk = chunk.clamp(0.0, 1.0)
        result[start : start + CHUNK] = chunk
    return result


def fit_normalisation(images: Tensor) -> Normalisation:
    """Fit mean and std (over all pixels, divided by their number) on [0, 1] images (N, C, H, W).

    A channel without any variation keeps its scale (std 1).
    """
    count = images.numel() // images.shape[1]
    # In float64 and in chunks: a float32 sum over 10^8 values loses digits, a float64 copy would triple the memory.
    total, squares = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for chunk in images.split(CHUNK):
        values = chunk.double()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0.0).sqrt()
    return Normalisation(mean.float(), torch.where(std > 1e-6, std, torch.ones_like(std)).float())


def fit_whitening(images: Tensor) -> Whitening:
    """Fit kornia's ``ZCAWhitening(eps=0.1, compute_inv=True)`` on [0, 1] images (N, C, H, W).

    Raises:
        DataError: if there are fewer than 2 images or C·H·W is above `MAX_ZCA_FEATURES`.
    """
    features = math.prod(images.shape[1:])
    if len(images) < 2 or features > MAX_ZCA_FEATURES:
        raise DataError(
            f"data.zca is true for {len(images)} training images of {features} values; it needs at least 2 images "
            f"and at most {MAX_ZCA_FEATURES} values: set data.zca to false or lower data.resolution"
        )
    from kornia.enhance import ZCAWhitening

    fit = ZCAWhitening(dim=0, eps=ZCA_EPS, detach_transforms=True, compute_inv=True).fit(images.flatten(1))
    tensors = (fit.mean_vector, fit.transform_matrix, fit.transform_inv)
    return Whitening(*(tensor.detach().clone().contiguous() for tensor in tensors))


def cached_whitening(images: Tensor, folder: Path | None, identity: str) -> Whitening:
    """Return the whitening fitted on ``images``, from ``folder/zca-<key>.safetensors`` where it was fitted before.

    Args:
        images: [0, 1] training images (N, C, H, W).
        folder: Where matrices are kept (75 MB for 32-px colour images); None or an unwritable folder keeps nothing.
        identity: What decides over the images: fingerprint, split and resolution.

    Raises:
        DataError: as `fit_whitening`.
    """
    path = (
        None
        if folder is None
        else folder / f"zca-{_key(f'{identity} eps={ZCA_EPS} version={ZCA_VERSION}')}.safetensors"
    )
    return _kept(Whitening, path, lambda: fit_whitening(images))


def cached_normalisation(images: Tensor, folder: Path, identity: str) -> Normalisation:
    """Return the normalisation fitted on ``images``, from ``folder`` where it was fitted before.

    Args:
        images: [0, 1] training images (N, C, H, W); read only where nothing is kept.
        folder: Where means and deviations are kept; an unwritable folder keeps nothing.
        identity: What decides over the images: fingerprint, split, resolution and resizing.
    """
    path = folder / f"normalisation-{_key(f'{identity} version={NORMALISATION_VERSION}')}.safetensors"
    return _kept(Normalisation, path, lambda: fit_normalisation(images))


def _key(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def _kept(kind: type[Fitted], path: Path | None, fit: Callable[[], Fitted]) -> Fitted:
    if path is None:
        return fit()
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    try:
        return kind(**load_file(path))
    except (OSError, SafetensorError, TypeError):  # not there, or damaged: fitted anew
        fitted = fit()
    # Not save_file: it makes files that only their owner can read, also in a data root that is shared.
    write_atomically(path, lambda temporary: temporary.write_bytes(save(fitted.to_tensors())))
    return fitted


def _per_channel(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device)[:, None, None]


def _in_chunks(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    result = torch.empty_like(images)
    for start in range(0, len(images), CHUNK):
        result[start : start + CHUNK] = function(images[start : start + CHUNK])
    return result
