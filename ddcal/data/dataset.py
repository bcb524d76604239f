"""Datasets as the stages see them: preprocessed train, val and test splits that depend on the data config alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddcal.config import DataConfig
from ddcal.data.arrays import RawData, refuse_same
from ddcal.data.decoded import open_decoded
from ddcal.data.errors import DataError
from ddcal.data.fingerprint import source_fingerprint
from ddcal.data.mapped import MappedImages
from ddcal.data.preprocessing import (
    Preprocessing,
    cached_normalisation,
    cached_whitening,
    fit_normalisation,
    unit_images,
)
from ddcal.data.sources import locate_source, read_source
from ddcal.seeding import generator


@dataclass(frozen=True, eq=False)
class Split:
    """Images float32 (N, C, H, W), preprocessed, and labels int64 (N,), both on the CPU.

    Images that were decoded from files are a read-only `MappedImages`: rows become values when they are taken.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _indices(self) -> tuple[Tensor, ...]:
        return torch.argsort(self.labels, stable=True).split(torch.bincount(self.labels).tolist())

    def indices_of(self, label: int) -> Tensor:
        """Return the ascending positions of a class, int64 (n,); worked out once for all classes."""
        if label < 0:
            raise ValueError(f"label is {label}; labels begin at 0")
        return self._indices[label] if label < len(self._indices) else self.labels.new_empty(0)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset, ready for networks.

    Attributes:
        name: As in the config.
        train: What distillation and training may see; in a fixed shuffled order.
        val: Carved out of the real training images; in a fixed shuffled order; empty at validation_fraction 0.
        test: In the source's order.
        num_classes: Labels are 0 … num_classes − 1, each present in train.
        channels: Channels of the images.
        image_size: Their height and width, in pixels.
        class_names: One name a class.
        fingerprint: `ddcal.data.dataset_fingerprint` of the source files.
        preprocessing: What was fitted on train and applied to all splits.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int
    channels: int
    image_size: int
    class_names: tuple[str, ...]
    fingerprint: str
    preprocessing: Preprocessing

    def inverse_transform(self, images: Tensor) -> Tensor:
        """Return network-input images (N, C, H, W) as pictures in [0, 1]; values beyond are clamped."""
        return self.preprocessing.inverse_transform(images).clamp(0.0, 1.0)


def load_dataset(config: DataConfig, derived: Path | None = None) -> Dataset:
    """Load, split and preprocess a dataset; the same config and files always give the same splits.

    ``val`` is taken out before normalisation or ZCA is fitted, by a permutation that no trial's seed influences. A
    smaller validation fraction takes a subset of what a larger one takes.

    Args:
        config: Which data, and where.
        derived: The folder that keeps what is derived from the files in place of ``.ddcal`` beside them.

    Raises:
        DataError: if files are missing, damaged or malformed, change meanwhile, or are too few for the split.
    """
    source = replace(locate_source(config), derived=derived)
    before = source.states()
    fingerprint = source_fingerprint(config.name, source, config.root)
    resolution, folder = config.resolution, source.keeps
    if source.kind == "images":
        raw, folder = open_decoded(config, source, fingerprint)
        resolution = None  # decoded at that side
    else:
        raw = read_source(config, source)
    if source.states() != before:  # the fingerprint may be that of other bytes
        raise DataError(f"{source.place}: the data changed while it was read; try again when nothing writes there")
    mapped = source.kind == "images" and not config.zca  # whitening a batch anew each time costs too much
    train, test = torch.arange(len(raw.train_labels)), torch.arange(len(raw.test_labels))
    test_images, test_labels = raw.test_images, raw.test_labels
    if config.spec.test_fraction:
        train, test = split_by_class(raw.train_labels, train, config.spec.test_fraction, f"{config.name}-test")
        test_images, test_labels = raw.train_images, raw.train_labels
    fraction = config.resolved_validation_fraction
    train, val = split_by_class(raw.train_labels, train, fraction, "val-split")
    check_split(raw.train_labels, train, val, fraction, source.place)
    _refuse_same(raw, train, source.place)
    train = reduced(raw.train_labels, train, config.train_images, source.place)
    train, val = _shuffled(train, "train-order"), _shuffled(val, "val-order")

    train_images: Tensor
    if mapped:
        train_images = MappedImages(torch.from_numpy(raw.train_images), train, None)
    else:
        train_images = unit_images(raw.train_images, train, resolution)
    identity = f"{fingerprint} validation_fraction={fraction!r} resolution={config.resolution}"
    if source.kind == "images":
        identity += f" resize={config.resize}"
        if config.background != DataConfig().background:
            identity += f" background={config.background}"
    if config.train_images is not None:
        identity += f" train_images={config.train_images}"
    preprocessing: Preprocessing
    if config.zca:
        preprocessing = cached_whitening(train_images, folder, identity)
    elif mapped and folder is not None:
        preprocessing = cached_normalisation(train_images, folder, identity)
    else:
        preprocessing = fit_normalisation(train_images)

    def split(images: np.ndarray, labels: np.ndarray, indices: Tensor) -> Split:
        inputs: Tensor
        if mapped:
            inputs = MappedImages(torch.from_numpy(images), indices, preprocessing)
        else:
            inputs = preprocessing.transform(unit_images(images, indices, resolution))
        return Split(inputs, torch.from_numpy(labels)[indices])

    return Dataset(
        name=config.name,
        train=split(raw.train_images, raw.train_labels, train)
        if mapped
        else Split(preprocessing.transform(train_images), torch.from_numpy(raw.train_labels)[train]),
        val=split(raw.train_images, raw.train_labels, val),
        test=split(test_images, test_labels, test),
        num_classes=len(raw.class_names),
        channels=train_images.shape[1],
        image_size=train_images.shape[2],
        class_names=raw.class_names,
        fingerprint=fingerprint,
        preprocessing=preprocessing,
    )


def split_by_class(labels: np.ndarray, indices: Tensor, fraction: float, stream: str) -> tuple[Tensor, Tensor]:
    """Take round(fraction·n) of the n images of every class out of ``indices``.

    Args:
        labels: int64 (N,), the labels of all images.
        indices: int64, which of them to split.
        fraction: In [0, 1).
        stream: Names the fixed permutation: generator(0, "data", stream).

    Returns:
        (kept, taken): int64, ascending and disjoint, together ``indices``.
    """
    permutations = generator(0, "data", stream)
    chosen = torch.from_numpy(labels)[indices]
    taken = torch.zeros(len(indices), dtype=torch.bool)
    for label in chosen.unique():
        members = (chosen == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=permutations)
        taken[members[order[: round(fraction * len(members))]]] = True
    return indices[~taken], indices[taken]


def reduced(labels: np.ndarray, train: Tensor, images: int | None, source_name: str) -> Tensor:
    """Return the training indices that ``data.train_images`` keeps: the same share of every class.

    Args:
        labels: int64 (N,), the labels of all images.
        train: int64, the training images without ``val``; every class is there.
        images: About how many to keep: each class keeps its rounded share. None, or more than there are, keeps all.
        source_name: Where the data is from, for the error.

    Raises:
        DataError: if a class would have no image left.
    """
    if images is None or images >= len(train):
        return train
    kept = split_by_class(labels, train, images / len(train), "train-images")[1]
    counts = np.bincount(labels[kept.numpy()], minlength=int(labels.max()) + 1)
    if counts.min() == 0:
        raise DataError(
            f"{source_name}: data.train_images {images} leaves no training image of class {counts.argmin()}; raise it"
        )
    return kept


def check_split(labels: np.ndarray, train: Tensor, val: Tensor, fraction: float, source_name: str) -> None:
    """Refuse a split that leaves a class without training images, or ``val`` without any.

    Args:
        labels: int64 (N,), the labels of all images.
        train: int64, the training images without ``val``.
        val: int64, the images of ``val``.
        fraction: ``data.validation_fraction``.
        source_name: Where the data is from, for the error.

    Raises:
        DataError: naming the class.
    """
    counts = np.bincount(labels[train.numpy()], minlength=int(labels.max()) + 1)
    if counts.min() == 0:
        raise DataError(
            f"{source_name}: data.validation_fraction {fraction:g} leaves no training image of class "
            f"{counts.argmin()}; lower the fraction or add images"
        )
    if fraction > 0.0 and len(val) == 0:
        raise DataError(
            f"{source_name}: data.validation_fraction {fraction:g} of so few images a class is no image at all; "
            "raise the fraction or add images"
        )


def _refuse_same(raw: RawData, train: Tensor, source_name: str) -> None:
    if len(train) > 1:
        first = raw.train_images[int(train[0])]
        refuse_same(source_name, len(train), all(np.array_equal(raw.train_images[i], first) for i in train.tolist()))


def _shuffled(indices: Tensor, stream: str) -> Tensor:
    return indices[torch.randperm(len(indices), generator=generator(0, "data", stream))]
