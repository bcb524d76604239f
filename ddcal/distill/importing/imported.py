"""Distilled sets that others made, as the ``file`` backbone: brought into this dataset's network-input space."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ddcal.config import DistillConfig
from ddcal.config.backbones import FileConfig
from ddcal.data import Dataset
from ddcal.distill.importing.tensor_file import (
    TensorFileError,
    check_tensors,
    file_identity,
    label_order,
    probabilities,
    read_tensor_file,
)
from ddcal.distill.real import FixedImages
from ddcal.soft_labels import classes_in_order, hard_labels

logger = logging.getLogger(__name__)

SOURCE = "source.safetensors"
"""The imported tensors as they were stored, beside the set that was made of them."""

REAL_IMAGES = 2000
"""So many real images tell what their pixels are like."""

CLOSE, DOUBTFUL, FAR = 0.35, 0.7, 3.0
"""Distances of `_distance`. Real CIFAR-10 images of another form are 1.3 (whitened for normalized) to 3.5 off."""

LESS_CORRELATED = 0.1
"""Neighbouring values of whitened images correlate at least so much less (CIFAR-10: 0.64 against 0.93)."""


@dataclass(frozen=True)
class Form:
    """What images look like in one form: mean and std of each channel, float64 (C,)."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Form:
        """Measure images (N, C, H, W)."""
        values = images.double().transpose(0, 1).flatten(1)
        return cls(values.mean(1), values.std(1, correction=0))


def contradictions(images: Tensor, file: FileConfig, pixels: Tensor, whitened: Tensor | None = None) -> list[str]:
    """Return what speaks against the preprocessing that is stated for a set, in sentences.

    Learned images wander off from real ones, so only what another form explains much better is said.

    Args:
        images: As they were stored, (M, C, H, W).
        file: What is stated.
        pixels: Real images of the dataset in [0, 1], (N, C, H, W).
        whitened: The same after ZCA, where that is known.
    """
    stated = file.preprocessing
    if images.dtype == torch.uint8:
        return []
    low, high = float(images.min()), float(images.max())
    if stated != "pixels" and low >= 0.0 and high <= 1.0:
        return [
            f"distill.file.preprocessing is {stated!r}, but all values lie in [0, 1] ({low:.3g} to {high:.3g}), as "
            "those of 'pixels' do"
        ]
    real, here = Form.of(pixels), Form.of(images)
    ones = torch.ones_like(real.mean)
    forms = {"pixels": real, "normalized": Form(0 * ones, ones)}
    if file.mean is not None and file.std is not None:
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (file.mean, file.std))
        forms["normalized"] = Form((real.mean - mean) / std, real.std / std)
    if whitened is not None:
        forms["zca"] = Form.of(whitened)
    distances = {name: _distance(here, form) for name, form in forms.items()}
    own = distances.pop(str(stated), math.inf)
    nearest = min(distances, key=lambda name: distances[name])
    if stated == "zca":  # whitened images that learned much contrast have the std of normalized ones
        alike = _neighbours(images) >= _neighbours(pixels) - LESS_CORRELATED
        other = alike and distances[nearest] < min(CLOSE, own)
    else:
        other = own > DOUBTFUL and distances[nearest] < own / 2
    measured = f"mean {_shown(here.mean)}, std {_shown(here.std)} a channel"
    if other:
        expected = forms[nearest]
        return [
            f"distill.file.preprocessing is {stated!r}, but the images have {measured}: like real ones that are "
            f"{nearest!r} (mean {_shown(expected.mean)}, std {_shown(expected.std)})"
        ]
    if FAR < own < math.inf:
        expected = forms[str(stated)]
        return [
            f"distill.file.preprocessing is {stated!r}, but the images have {measured}, far from real ones in that "
            f"form (mean {_shown(expected.mean)}, std {_shown(expected.std)})"
        ]
    return []


class ImportedImages(FixedImages):
    """The ``file`` backbone as a distiller: the images that were imported.

    Attributes:
        learning_rate: As stated.
        warnings: What speaks against the stated preprocessing.
    """

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device) -> None:
        """Read the file.

        Raises:
            TensorFileError: if it cannot be used for this dataset, with everything that is wrong.
            ValueError: if the config does not say which file, or what was done to the images.
        """
        file, kind = config.file, dataset.preprocessing.kind
        if file.images is None or file.preprocessing is None:
            raise ValueError(
                "distill.backbone is 'file': distill.file.images and distill.file.preprocessing must say it"
            )
        if kind == "zca" and file.preprocessing == "normalized" and file.mean is None:
            raise ValueError(
                "data.zca is true: images that are 'normalized' need distill.file.mean and distill.file.std"
            )
        if kind != "zca" and file.preprocessing == "zca":
            raise ValueError("distill.file.preprocessing is 'zca' but data.zca is false")
        self._source = read_tensor_file(file)
        faults = check_tensors(
            self._source, file, config.ipc, (dataset.num_classes, dataset.channels, dataset.image_size)
        )
        if faults:
            raise TensorFileError(*faults)
        order, self.labels = ordered_labels(self._source.labels, file)
        self.images = network_inputs(self._source.images, file, dataset)[order]
        self.learning_rate = file.lr
        real = dataset.train.images[:REAL_IMAGES]
        whitened = real if kind == "zca" else None
        self.warnings = contradictions(self._source.images, file, dataset.inverse_transform(real), whitened)
        if len(others := torch.nonzero(hard_labels(self.labels) != classes_in_order(self.labels))):
            self.warnings.append(
                f"{len(others)} of {len(self.labels)} labels have another most probable class than the one of which "
                "the image is by its place in the file"
            )
        for warning in self.warnings:
            logger.warning("%s: %s", file.images, warning)
        self._provenance: dict[str, Any] = {
            "config": {
                "backbone": config.backbone,
                "ipc": config.ipc,
                "file": file_identity(file, self._source.digest),
            },
            "warnings": self.warnings,
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """Which file the images are from, what was said of it, and what speaks against that."""
        return self._provenance

    def save_more(self, folder: Path) -> None:
        """Write the tensors as they were stored, so that the set can be made again without the original file."""
        save_file({"images": self._source.images, "labels": self._source.labels}, folder / SOURCE)


def ordered_labels(labels: Tensor, file: FileConfig) -> tuple[Tensor, Tensor]:
    """Return the order of stored images that is class by class, and the labels in that order.

    Args:
        labels: As stored, and checked.
        file: What they are said to be.

    Returns:
        int64 (M,); and int64 (M,), or probabilities float32 (M, K).
    """
    if file.labels_are == "classes":
        order = torch.argsort(labels, stable=True)
        return order, labels[order]
    rows = probabilities(labels, file.labels_are)
    found = label_order(rows)
    assert found is not None, "the file must be checked"
    return found, rows[found]


def network_inputs(images: Tensor, file: FileConfig, dataset: Dataset) -> Tensor:
    """Return stored images as this dataset's networks see real ones, float32.

    Args:
        images: As stored.
        file: What was done to them.
        dataset: Whose preprocessing networks are trained and tested with.
    """
    values = images.float()
    if file.preprocessing == "pixels":
        return dataset.preprocessing.transform(values / 255.0 if images.dtype == torch.uint8 else values)
    if file.mean is None or file.std is None:
        return values.clone()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (file.mean, file.std))
    return dataset.preprocessing.transform(values * std + mean)


def _distance(here: Form, there: Form) -> float:
    """Mean over the channels of how far the means are apart, in stds of ``there``, and the stds, as a logarithm."""
    means = (here.mean - there.mean).abs() / there.std.clamp(min=1e-6)
    stds = (here.std.clamp(min=1e-6) / there.std.clamp(min=1e-6)).log().abs()
    return float((means + stds).mean())


def _neighbours(images: Tensor) -> float:
    """Correlation of horizontally neighbouring values."""
    left, right = images[..., :-1].double().flatten(), images[..., 1:].double().flatten()
    return float(torch.corrcoef(torch.stack([left, right]))[0, 1])


def _shown(values: Tensor) -> str:
    return "/".join(f"{value:.3g}" for value in values.tolist())
