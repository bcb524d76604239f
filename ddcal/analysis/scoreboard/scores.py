"""The scores of DD-Ranking: what of an accuracy is due to the images, and not to their labels or to augmentation.

Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025. Every accuracy is a share, 0 to 1: so
both scores lie in [0, 1]. Random images are real ones, as many of every class, under the same labels and augmentation.
"""

from __future__ import annotations

import math

WEIGHT = 0.5
"""DD-Ranking's default for both weights: both terms count equally."""

EVEN = (1.0 - math.exp(-1.0)) / (math.e - math.exp(-1.0))
"""The score of a set whose terms add up to nothing, 0.269: augmentation-robust, that of random images themselves."""


def hard_label_recovery(real_hard: float, set_hard: float) -> float:
    """Return HLR: how much accuracy the set with hard labels lacks of all real images.

    Args:
        real_hard: Accuracy of networks trained on all real images.
        set_hard: On the set with hard labels.
    """
    return real_hard - set_hard


def improvement_over_random(set_any: float, random_any: float) -> float:
    """Return IOR: how much the set is better than random images under the same labels and augmentation."""
    return set_any - random_any


def label_robust_score(
    real_hard: float, set_hard: float, set_any: float, random_any: float, weight: float = WEIGHT
) -> float:
    """Return LRS, 0 to 1: weight · IOR − (1 − weight) · HLR, normalised.

    Args:
        real_hard: Accuracy of networks trained on all real images.
        set_hard: On the set with hard labels.
        set_any: On the set with the labels that are scored.
        random_any: On random images with such labels.
        weight: Of the improvement over random images, 0 to 1.
    """
    improvement = improvement_over_random(set_any, random_any)
    return normalised(weight * improvement - (1.0 - weight) * hard_label_recovery(real_hard, set_hard))


def augmentation_robust_score(
    set_augmented: float, random_augmented: float, set_plain: float, random_plain: float, weight: float = WEIGHT
) -> float:
    """Return ARS, 0 to 1: the improvement over random images with augmentation and without, weighted and normalised.

    Args:
        set_augmented: Accuracy on the set, trained with augmentation.
        random_augmented: On random images, trained with it.
        set_plain: On the set, trained without.
        random_plain: On random images, trained without.
        weight: Of the improvement with augmentation, 0 to 1.
    """
    augmented = improvement_over_random(set_augmented, random_augmented)
    return normalised(weight * augmented + (1.0 - weight) * improvement_over_random(set_plain, random_plain))


def normalised(value: float) -> float:
    """Return (e^value − e^−1) / (e − e^−1), which is 0 at −1 and 1 at 1.

    Args:
        value: −1 to 1.
    """
    return (math.exp(value) - math.exp(-1.0)) / (math.e - math.exp(-1.0))
