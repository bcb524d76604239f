"""The shape of a dataset is that of what is loaded."""

import pytest

from ddcal.config import DataConfig
from ddcal.data import DatasetShape, dataset_shape, load_dataset


@pytest.mark.parametrize(
    "settings", [{}, {"resolution": 12}, {"validation_fraction": 0.5}, {"zca": True}, {"train_images": 12}]
)
@pytest.mark.parametrize("name", ["digits", "npz"])
def test_it_is_the_shape_of_the_loaded_dataset(name, settings, arrays, write_npz):
    root = {"root": str(write_npz(arrays))} if name == "npz" else {}
    config = DataConfig(name=name, **root, **settings)
    loaded = load_dataset(config)
    counts = (len(split) for split in (loaded.train, loaded.val, loaded.test))
    expected = DatasetShape(*counts, loaded.num_classes, loaded.channels, loaded.image_size)
    assert dataset_shape(config) == expected
