"""Tiny datasets, written the way the real ones lie on disk."""

import numpy as np
import pytest
from image_files import write_tiny_imagenet
from own_packages import own_package  # noqa: F401 - a fixture


def tiny_arrays(classes=3, per_class=10, size=8, channels=3):
    """x_train … y_test of random uint8 images; test has two images a class."""
    random = np.random.default_rng(0)

    def part(count):
        labels = np.arange(classes * count) % classes
        return random.integers(0, 256, (classes * count, size, size, channels), dtype=np.uint8), labels

    (x_train, y_train), (x_test, y_test) = part(per_class), part(2)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@pytest.fixture
def arrays():
    return tiny_arrays()


@pytest.fixture
def write_npz(tmp_path):
    """Write arrays (None leaves one out) as an .npz and return its path."""

    def write(arrays, name="tiny.npz"):
        path = tmp_path / name
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


@pytest.fixture
def tiny_imagenet(tmp_path):
    """A data root that holds tiny-imagenet-200/: 3 classes of 10 images, 6 labelled ones in val."""
    return write_tiny_imagenet(tmp_path)
