"""Gradient matching: DC, and DSA, which augments synthetic and real images alike (method.md, DC / DSA)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ddcal.config.backbones.base import REFERENCE, REFERENCE_OF_DC, Backbone
from ddcal.config.backbones.halving import half
from ddcal.config.base import Config, PositiveFloat, PositiveInt, Ratio

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig

DOUBLE_BACKWARD = 2
"""What an image holds that is differentiated twice, in images that are differentiated once: 4.8 MB to 2.2 MB, measured
for the ConvNet of width 128 at 32 px."""

LOOPS: dict[int | str, dict[str, Any]] = {
    1: {"distill.matching.outer": 1, "distill.matching.inner": 1},
    10: {"distill.matching.outer": 10, "distill.matching.inner": 50},
    20: {"distill.matching.outer": 20, "distill.matching.inner": 25},
    30: {"distill.matching.outer": 30, "distill.matching.inner": 20},
    40: {"distill.matching.outer": 40, "distill.matching.inner": 15},
    50: {"distill.matching.outer": 50, "distill.matching.inner": 10},
}
"""Images per class → the published updates an iteration, and the epochs between two of them."""


class MatchingConfig(Config):
    """Gradient matching (DC, DSA); method.md, DC / DSA."""

    outer: PositiveInt | None = None
    inner: PositiveInt | None = None
    real_batch: PositiveInt = 256
    image_lr: PositiveFloat = 0.1
    image_momentum: Ratio = 0.5
    network_lr: PositiveFloat = 0.01
    inner_batch: PositiveInt = 256
    init: Literal["noise", "real"] | None = None


class _Matching(Backbone):
    """What DC and DSA share."""

    version = 3  # since classes go side by side through the network
    section = "matching"
    settings = MatchingConfig
    no_formation = ""

    def what_to_halve(self, distill: DistillConfig) -> list[str]:
        """Return the settings that decide how many images a pass holds, the largest first."""
        matching, factor = distill.matching, distill.formation.factor
        synthetic = distill.ipc * factor**2 * DOUBLE_BACKWARD
        passes = [
            (matching.real_batch, "distill.matching.real_batch", matching.real_batch),
            (synthetic, "distill.formation.factor", factor),
            (synthetic, "distill.ipc", distill.ipc),
        ]
        if (matching.outer or 1) > 1:
            passes.append((matching.inner_batch, "distill.matching.inner_batch", matching.inner_batch))
        ordered = sorted(passes, key=lambda one: -one[0])
        return [words for _, name, value in ordered for words in half(name, value)]

    def quiet(self, distill: DistillConfig, rate: float) -> DistillConfig:
        """Return ``distill`` with tiny rates of the images and of the networks."""
        matching = distill.matching.model_copy(update={"image_lr": rate, "network_lr": rate})
        return distill.model_copy(update={"matching": matching})


class DC(_Matching):
    """``dc``: without augmentation."""

    name = "dc"
    distiller = "ddcal.distill.matching:GradientMatching"
    presets = {  # noqa: RUF012 - never changed
        "published": {
            "source": 'Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021',
            "any": {
                "all": {
                    "distill.iterations": 1000,
                    "distill.matching.init": "noise",
                    "train.epochs": 300,
                    "train.augment": "none",
                },
                **LOOPS,
            },
        },
        "reference": REFERENCE_OF_DC,
    }


class DSA(_Matching):
    """``dsa``: one augmentation a matching, the same for synthetic and real images."""

    name = "dsa"
    distiller = "ddcal.distill.matching:SiameseMatching"
    presets = {  # noqa: RUF012 - never changed
        "published": {
            "source": ('Zhao, Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021'),
            "any": {
                "all": {
                    "distill.iterations": 1000,
                    "distill.matching.init": "real",
                    "train.epochs": 1000,
                    "train.augment": "dsa",
                },
                **LOOPS,
            },
        },
        "reference": REFERENCE,
    }


SPECS = (DC(), DSA())
