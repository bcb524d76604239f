"""Distribution matching: the mean embedding of synthetic images is to be that of real ones (method.md, DM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ddcal.config.backbones.base import REFERENCE, Backbone, Momentum
from ddcal.config.backbones.halving import half
from ddcal.config.base import Config, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig


class DMConfig(Config):
    """Distribution matching; method.md, DM."""

    real_batch: PositiveInt = 256
    image_lr: PositiveFloat = 1.0
    image_momentum: Momentum = 0.5
    init: Literal["noise", "real"] = "real"


class DM(Backbone):
    """``dm``."""

    name = "dm"
    distiller = "ddcal.distill.dm:DistributionMatching"
    section = "dm"
    settings = DMConfig
    two_passes = False
    no_batch_norm = "one class at a time is compared, where batch statistics mean nothing"
    no_formation = ""
    presets = {  # noqa: RUF012 - never changed
        "published": {
            "source": 'Zhao, Bilen, "Dataset Condensation with Distribution Matching", WACV 2023',
            "any": {"all": {"distill.iterations": 20000, "train.epochs": 1000, "train.augment": "dsa"}},
        },
        "reference": REFERENCE,
    }

    def what_to_halve(self, distill: DistillConfig) -> list[str]:
        """Return the images of a pass."""
        return [
            *half("distill.dm.real_batch", distill.dm.real_batch),
            *half("distill.formation.factor", distill.formation.factor),
            *half("distill.ipc", distill.ipc),
        ]


SPECS = (DM(),)
