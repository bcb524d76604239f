"""Dataset distillation: backbones behind one entry, with Masked Distillation Training (MDT) in each."""

from ddcal.distill.engine import Distiller, distill, images_per_class, make_distiller, synthetic_set
from ddcal.distill.matching import matching_distance
from ddcal.distill.synthetic import SyntheticSet

__all__ = [
    "Distiller",
    "SyntheticSet",
    "distill",
    "images_per_class",
    "make_distiller",
    "matching_distance",
    "synthetic_set",
]
