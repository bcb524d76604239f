"""The settings of training, with a section of its own for each loss that has settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ddcal.config.augmentations import TrainAugment
from ddcal.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt, Ratio
from ddcal.config.networks import NetworkOverride

LOSS_SECTIONS = ("mixup", "label_smoothing", "focal")
"""Sections of ``train`` that belong to the loss of their name; the others have no effect on it."""

SAMPLE_DEPENDENT_GAMMAS = (5.0, 3.0)
"""Of the focal loss with ``sample_dependent``: below `SAMPLE_DEPENDENT_SHARE`, and from there on."""

SAMPLE_DEPENDENT_SHARE = 0.2
"""The probability of the true class at which the sample-dependent gamma changes."""


class MixupConfig(Config):
    """Mixup: a batch's share is drawn from Beta(alpha, alpha). 1 is uniform; near 0 hardly anything is mixed."""

    alpha: PositiveFloat = 1.0


class LabelSmoothingConfig(Config):
    """Label smoothing: ``epsilon`` of the target is spread evenly over all K classes, the true one among them."""

    epsilon: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] = 0.1


class FocalConfig(Config):
    """Focal loss: (1 − p)^gamma times the cross-entropy, p the probability of the true class.

    ``sample_dependent`` takes gamma 5 for images with p < 0.2 and 3 for the others, instead of ``gamma``.
    """

    gamma: NonNegativeFloat = 3.0
    sample_dependent: bool = False

    @model_validator(mode="after")
    def _check(self) -> FocalConfig:
        if self.sample_dependent and self.gamma != FocalConfig.model_fields["gamma"].default:
            raise ValueError(
                f"gamma is {self.gamma:g} but sample_dependent is true, whose gammas are 5 and 3: leave gamma out, "
                "or set sample_dependent to false"
            )
        return self


class TrainConfig(Config):
    """Training of the DDNNs; None takes the backbone's own evaluation recipe (method.md, Evaluation training).

    ``lr`` left out is the learned rate of a set that has one (MTT, or ``distill.file.lr``), the recipe's (``full``),
    and 0.01 elsewhere. ``schedule``: the rate falls to a tenth at half of the epochs (``step``), one epoch later and
    with the momentum set to zero (``step_reference``), along half a cosine to 0, or not at all. ``augment``: one of
    DSA's operations a batch (``dsa``), or of some of them (``crop_scale_rotate``), or for every image a random crop and
    flip; left out, that of ``distill.rtp`` with its images. The sections ``mixup``, ``label_smoothing`` and ``focal``
    belong to the ``loss`` of their name (method.md, During-training baselines).
    """

    loss: Literal["cross_entropy", "mixup", "label_smoothing", "focal"] = "cross_entropy"
    mixup: MixupConfig = MixupConfig()
    label_smoothing: LabelSmoothingConfig = LabelSmoothingConfig()
    focal: FocalConfig = FocalConfig()
    epochs: PositiveInt | None = None
    lr: PositiveFloat | None = None
    schedule: Literal["step", "step_reference", "cosine", "constant"] | None = None
    momentum: Ratio = 0.9
    weight_decay: NonNegativeFloat | None = None
    batch_size: PositiveInt | None = None
    augment: TrainAugment | None = None
    holdout: Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)] = 0.0
    networks: Annotated[int, Field(ge=1, le=100)] = 5
    network: NetworkOverride = NetworkOverride()
