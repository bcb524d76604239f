"""Real data: where it lies, its validation split, its preprocessing, and DSA's augmentation."""

from ddcal.data.augment import Augmentation, augment, draw_augmentation
from ddcal.data.dataset import Dataset, Split, load_dataset
from ddcal.data.errors import DataError
from ddcal.data.fingerprint import dataset_fingerprint
from ddcal.data.preprocessing import Preprocessing

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "Preprocessing",
    "Split",
    "augment",
    "dataset_fingerprint",
    "draw_augmentation",
    "load_dataset",
]
