"""How many images a dataset has and how large they are, without preprocessing them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ddcal.config import DataConfig
from ddcal.data.dataset import DIGITS_TEST_FRACTION, split_by_class
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
    """Return the shape of a dataset; its files are read, but nothing is scaled, whitened or kept.

    Raises:
        DataError: if files are missing, damaged or malformed.
    """
    raw = read_source(config, locate_source(config))
    train, test = torch.arange(len(raw.train_labels)), len(raw.test_labels)
    if config.name == "digits":
        train, taken = split_by_class(raw.train_labels, train, DIGITS_TEST_FRACTION, "digits-test")
        test = len(taken)
    train, val = split_by_class(raw.train_labels, train, config.resolved_validation_fraction, "val-split")
    _, side, _, channels = raw.train_images.shape
    return DatasetShape(len(train), len(val), test, len(raw.class_names), channels, config.resolution or side)
