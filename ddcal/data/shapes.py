"""How many images a dataset has and how large they are, without preprocessing them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ddcal.config import DataConfig
from ddcal.data.dataset import DIGITS_TEST_FRACTION, reduced, split_by_class
from ddcal.data.decoded import stored_side
from ddcal.data.sources import locate_source, read_source


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
    """

    train: int
    val: int
    test: int
    classes: int
    channels: int
    size: int


def dataset_shape(config: DataConfig) -> DatasetShape:
    """Return the shape of a dataset; its files are read, but nothing is decoded, scaled, whitened or kept.

    Raises:
        DataError: if files are missing, damaged or malformed.
    """
    source = locate_source(config)
    if source.images is not None:
        listing = source.images.listing
        labels, test, classes = listing.labels["train"], len(listing.labels["test"]), len(listing.class_names)
        side, channels = stored_side(config, source.images), 3
    else:
        raw = read_source(config, source)
        labels, test, classes = raw.train_labels, len(raw.test_labels), len(raw.class_names)
        side, channels = config.resolution or raw.train_images.shape[1], raw.train_images.shape[3]
    train = torch.arange(len(labels))
    if config.name == "digits":
        train, taken = split_by_class(labels, train, DIGITS_TEST_FRACTION, "digits-test")
        test = len(taken)
    train, val = split_by_class(labels, train, config.resolved_validation_fraction, "val-split")
    train = reduced(labels, train, config.train_images, source.place)
    return DatasetShape(len(train), len(val), test, classes, channels, side)
