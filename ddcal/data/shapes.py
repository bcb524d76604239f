"""How many images a dataset has and how large they are, without preprocessing them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ddcal.config import DataConfig
from ddcal.data.dataset import check_split, reduced, split_by_class
from ddcal.data.decoded import stored_side
from ddcal.data.fingerprint import look_at
from ddcal.data.image_folders import ImageFolder, raise_problems
from ddcal.data.look import Look
from ddcal.data.pictures import Header, read_header, ready_pillow
from ddcal.data.sources import Source, locate_source, survey_source

SAMPLE = 200
"""So many pictures of each split tell what all are like, where nobody has looked at all of them."""


@dataclass(frozen=True)
class DatasetShape:
    """The sizes of what `ddcal.data.load_dataset` would return.

    Attributes:
        train: Images to distill from.
        val: Images to select on.
        test: Images of the final score.
        classes: Number of classes.
        channels: Channels of an image.
        size: Height and width of an image, in pixels.
        class_sizes: How many images to distill from each class has.
        class_names: One name a class.
    """

    train: int
    val: int
    test: int
    classes: int
    channels: int
    size: int
    class_sizes: tuple[int, ...] = field(default=(), compare=False)
    class_names: tuple[str, ...] = field(default=(), compare=False)


def dataset_shape(config: DataConfig) -> DatasetShape:
    """Return the shape of a dataset; nothing is decoded, scaled, whitened or kept, and of an ``.npz`` little is read.

    Raises:
        DataError: if files are missing, damaged or malformed.
    """
    return _shape(config, locate_source(config))[0]


def check_dataset(config: DataConfig, thorough: bool) -> tuple[DatasetShape, list[str]]:
    """Refuse a dataset that no trial can use, as far as its files' headers and labels tell.

    Args:
        config: The dataset.
        thorough: Whether every picture's header is looked at, which reads all files where that was not done before and
            is kept for `ddcal.data.dataset_fingerprint`. Otherwise, where nothing is kept, `SAMPLE` of each split are.

    Returns:
        Its shape, and what a person should know of it, in sentences.

    Raises:
        DataError: naming the files and what would be right.
    """
    source = locate_source(config)
    if source.images is None:
        shape, remarks = _shape(config, source)
        return shape, [*remarks, *_unofficial(config, source, shape)]
    listing = source.images.listing
    look = look_at(source, thorough) or _sampled(source.images)
    side = None if config.resolution or config.spec.one_side else stored_side(config, source.images)
    raise_problems(source.images.path, look.problems(side))
    found = [f"{source.place}: {remark}" for remark in look.remarks(config.background)]
    if listing.passed_over:
        shown = ", ".join(f"{count} {ending}" for ending, count in listing.passed_over.items())
        found.append(f"{source.place}: files of these kinds are not read: {shown}")
    shape = _shape(config, source)[0]
    return shape, found + _unofficial(config, source, shape)


def _unofficial(config: DataConfig, source: Source, shape: DatasetShape) -> list[str]:
    official = config.spec.classes
    if shape.classes == (official or shape.classes):
        return []
    has = f"wnids.txt lists {shape.classes}" if source.images is not None else f"it has {shape.classes}"
    return [
        f"{source.place}: {has} classes, and the official Tiny-ImageNet has {official}: scores are not "
        "comparable with published ones"
    ]


def _sampled(images: ImageFolder) -> Look:
    ready_pillow()
    found = list[tuple[str, Header | str]]()
    for paths in images.listing.paths.values():
        for index in np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(int)):
            try:
                found.append((paths[index], read_header(images.path / paths[index])))
            except (OSError, ValueError) as error:
                found.append((paths[index], getattr(error, "strerror", None) or str(error)))
    return Look.of(found)


def _shape(config: DataConfig, source: Source) -> tuple[DatasetShape, tuple[str, ...]]:
    remarks: tuple[str, ...] = ()
    if source.images is not None:
        listing = source.images.listing
        labels, test, names = listing.labels["train"], len(listing.labels["test"]), listing.class_names
        side, channels = stored_side(config, source.images), 3
    else:
        survey = survey_source(config, source)
        labels, test, names = survey.train_labels, len(survey.test_labels), survey.class_names
        side, channels, remarks = config.resolution or survey.side, survey.channels, survey.remarks
    train, fraction = torch.arange(len(labels)), config.resolved_validation_fraction
    if config.spec.test_fraction:
        train, taken = split_by_class(labels, train, config.spec.test_fraction, f"{config.name}-test")
        test = len(taken)
    train, val = split_by_class(labels, train, fraction, "val-split")
    check_split(labels, train, val, fraction, source.place)
    train = reduced(labels, train, config.train_images, source.place)
    sizes = np.bincount(labels[train.numpy()], minlength=len(names)).tolist()
    return DatasetShape(len(train), len(val), test, len(names), channels, side, tuple(sizes), names), remarks
