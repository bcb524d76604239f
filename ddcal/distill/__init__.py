"""Dataset distillation: backbones behind one entry, with Masked Distillation Training (MDT) in each."""

from ddcal.distill.distiller import Distiller
from ddcal.distill.engine import distill, images_per_class, make_distiller, synthetic_set
from ddcal.distill.learned import LearnedImages, RealBatches
from ddcal.distill.matching import matching_distance
from ddcal.distill.real import FixedImages, random_subset
from ddcal.distill.synthetic import SyntheticSet

__all__ = [
    "Distiller",
    "FixedImages",
    "LearnedImages",
    "RealBatches",
    "SyntheticSet",
    "distill",
    "images_per_class",
    "make_distiller",
    "matching_distance",
    "random_subset",
    "synthetic_set",
]
