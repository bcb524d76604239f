"""The settings of training, with a section of its own for each loss that has settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ddcal.config.augmentations import TrainAugment
from ddcal.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt, Ratio
from ddcal.config.networks import NetworkOverride

LOSS_SECTIONS = ("mixup", "label_smoothing", "focal", "kl")
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


Temperature = Annotated[float, Field(ge=0.01, le=100.0)]
"""Of labels that are probabilities: beyond these float32 knows one-hot rows or equal ones alone."""


class KLConfig(Config):
    """Knowledge distillation: τ² KL(q_τ ‖ p_τ) of labels q and predictions p, both at ``temperature`` τ.

    1 has the gradient of the cross-entropy to q; a higher one gives the small probabilities of a label more weight.
    """

    temperature: Temperature = 1.0


class LabelsConfig(Config):
    """The labels that networks are trained on: those that came with the ``set``, or what ``experts`` answer to images.

    Experts are networks trained on the real data, those that MTT matches (``distill.mtt.experts``; the distilling
    network). The label of an image is the mean over the first ``experts`` of them of softmax(logits / ``temperature``),
    as they were after ``epoch`` epochs; left out, that is their last one.
    """

    source: Literal["set", "experts"] = "set"
    experts: PositiveInt = 1
    epoch: PositiveInt | None = None
    temperature: Temperature = 1.0

    @property
    def by_experts(self) -> bool:
        """Whether experts give the labels."""
        return self.source == "experts"


class TrainConfig(Config):
    """Training of the DDNNs; None takes the backbone's own evaluation recipe (method.md, Evaluation training).

    ``lr`` left out is the learned rate of a set that has one (MTT, or ``distill.file.lr``), the recipe's (``full``),
    and 0.01 elsewhere. ``schedule``: the rate falls to a tenth at half of the epochs (``step``), one epoch later and
    with the momentum set to zero (``step_reference``), along half a cosine to 0, or not at all. ``augment``: one of
    DSA's operations a batch (``dsa``), or of some of them (``crop_scale_rotate``), or for every image a random crop and
    flip; left out, that of ``distill.rtp`` with its images. The sections ``mixup``, ``label_smoothing``, ``focal`` and
    ``kl`` belong to the ``loss`` of their name (method.md, During-training baselines); all but focal take soft labels.
    """

    loss: Literal["cross_entropy", "mixup", "label_smoothing", "focal", "kl"] = "cross_entropy"
    mixup: MixupConfig = MixupConfig()
    label_smoothing: LabelSmoothingConfig = LabelSmoothingConfig()
    focal: FocalConfig = FocalConfig()
    kl: KLConfig = KLConfig()
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

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.loss != "kl" and self.kl == KLConfig():  # as configs were before there was this loss
            values.pop("kl", None)
        return values


def soft_problem(train: TrainConfig) -> str:
    """Return why a loss cannot take labels that are probabilities, and which can; "" where it can.

    The focal loss weighs by the probability of the one true class. What others have put in its place for soft labels
    are losses of their own, for sigmoids (Li et al., "Generalized Focal Loss", NeurIPS 2020).
    """
    if train.loss != "focal":
        return ""
    return (
        "train.loss is 'focal', which weighs by the probability of one true class, but the labels are probabilities: "
        "use 'cross_entropy', 'label_smoothing', 'mixup' or 'kl'"
    )
