"""Logits of masked images: entries of the store that calibrate stages share, and no stage of a trial."""

from __future__ import annotations

from ddcal.config import TrialConfig
from ddcal.pipeline.stages.base import digest

MASKED = "masked"
VERSION = 1

KEPT_BYTES = 16 * 2**20
"""Logits of a trial above this size are not kept: to predict them again costs less than their place for every trial."""

MASKED_RATIOS = 8
"""The most mask ratios that ``mts_distilled`` looks at, with the one it takes; without a mask nothing is kept."""


def masked_key(train_key: str, config: TrialConfig, ratio: float, draws: int) -> str:
    """Return the key of the logits of masked images, which calibrations that differ in bounds or solver share.

    Args:
        train_key: The train stage's, whose networks and images these are.
        config: The trial, of which the unit of the mask and the seed count.
        ratio: The mask's.
        draws: How many masks are drawn.
    """
    values = {"unit": config.calibrate.mask.unit, "ratio": ratio, "draws": draws, "seed": config.seed}
    return digest({"stage": MASKED, "algorithm_version": VERSION, "upstream": train_key, **values})
