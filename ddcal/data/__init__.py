"""Real data: where it lies, its validation split, its preprocessing, and DSA's augmentation."""

from ddcal.data.augment import Augmentation, augment, draw_augmentation
from ddcal.data.dataset import Dataset, Split, load_dataset
from ddcal.data.errors import DataError
from ddcal.data.fingerprint import dataset_fingerprint, own_cache
from ddcal.data.preprocessing import Preprocessing
from ddcal.data.shapes import DatasetShape, dataset_shape
from ddcal.data.sources import CACHE_FOLDER

__all__ = [
    "CACHE_FOLDER",
    "Augmentation",
    "DataError",
    "Dataset",
    "DatasetShape",
    "Preprocessing",
    "Split",
    "augment",
    "dataset_fingerprint",
    "dataset_shape",
    "draw_augmentation",
    "load_dataset",
    "own_cache",
]
