"""Addressable memories, "remember the past": images are decoded from bases and coefficients (method.md, RTP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ddcal.config.augmentations import DistillAugment
from ddcal.config.backbones.base import NO_STATISTICS, Backbone, Momentum
from ddcal.config.backbones.halving import half, less_graph
from ddcal.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt
from ddcal.errors import BadInput

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig, TrialConfig

BASES_VERSION = 3
"""With bases: 2 since they begin as a matrix of R x (C·s²) numbers, not as a convolution's kernels; 3 as `RTP` is 2."""


class RTPConfig(Config):
    """Addressable memories ("remember the past"); method.md, RTP.

    ``bases`` None is the published 16 where ipc and dataset are the published ones, and must be given elsewhere; 0 is
    the variant without bases: the images themselves are learned, from real ones or from ``init: noise``, which is
    uniform, as Xavier's of the matrix (K·ipc, C·S²), in the authors' code. ``downsample`` divides the bases' side.
    ``augment`` holds for distillation, and for training on the set where ``train.augment`` is left out; the authors'
    code has ``none`` and ``flip_rotate``.
    """

    bases: Annotated[int, Field(ge=0)] | None = None
    downsample: PositiveInt = 2
    init: Literal["real", "noise"] = "real"
    augment: DistillAugment = "dsa"
    steps: PositiveInt = 150
    batch_per_class: PositiveInt = 32
    real_batch: PositiveInt = 64
    inner_lr: PositiveFloat = 0.01
    inner_momentum: Momentum = 0.9
    lr: PositiveFloat = 0.1
    momentum: Momentum = 0.5
    clip: PositiveFloat = 2.0
    regularisation: NonNegativeFloat = 0.0
    gradient: Literal["auto", "exact", "segments", "full"] = "auto"


class RTP(Backbone):
    """``rtp``."""

    name = "rtp"
    distiller = "ddcal.distill.rtp:AddressableMemories"
    version = 2  # since the second derivative of instance norm is a formula
    section = "rtp"
    settings = RTPConfig
    two_passes = False
    no_batch_norm = NO_STATISTICS
    no_formation = "its images are decoded from bases already (distill.rtp.bases)"
    clip = "distill.rtp.clip"
    usual = {"init": ("real",), "augment": ("dsa",)}  # noqa: RUF012 - never changed
    presets = {  # noqa: RUF012 - never changed
        "published": {
            "source": (
                'Deng, Russakovsky, "Remember the Past - Distilling Datasets into Addressable Memories", NeurIPS 2022'
            ),
            "exact": ["distill.rtp.bases"],
            # iterations: ddcal's own, none is published with the other numbers.
            "any": {
                "all": {
                    "distill.iterations": 5000,
                    "train.epochs": 300,
                    "train.augment": "dsa",
                    "train.weight_decay": 0.0,
                    "train.schedule": "constant",
                    "train.batch_size": 640,
                }
            },
            "cifar10": {1: {"distill.rtp.bases": 16}},
        },
    }

    def algorithm_version(self, distill: DistillConfig) -> int:
        """Return the version, which is higher with bases."""
        return BASES_VERSION if distill.rtp.bases else self.version

    def images_per_class(self, distill: DistillConfig, classes: int, channels: int, size: int) -> int:
        """Return what the storage of ``ipc`` images decodes to.

        Raises:
            ValueError: if bases leave no room for coefficients.
        """
        if not distill.rtp.bases:
            return distill.ipc
        return decoded_per_class(distill.ipc, classes, channels, size, distill.rtp.bases, distill.rtp.downsample)

    def fewest_per_class(self, distill: DistillConfig) -> int | None:
        """Return None: with bases more images than ``ipc`` are decoded, of how many pixels and classes data tells."""
        return None

    def known_per_class(self, distill: DistillConfig) -> int | None:
        """Return ``ipc`` where there are no bases."""
        return distill.ipc if distill.rtp.bases == 0 else None

    def draws_real_images(self, distill: DistillConfig) -> bool:
        """Return whether the images themselves are learned."""
        return not distill.rtp.bases

    def augment(self, distill: DistillConfig) -> str | None:
        """Return the augmentation that distilled the set."""
        return distill.rtp.augment

    def clip_now(self, distill: DistillConfig) -> float | None:
        """Return its own limit, which is always on."""
        return distill.rtp.clip

    def section_problems(self, distill: DistillConfig) -> list[str]:
        """Return whether the limit of other backbones is set."""
        if distill.clip is None:
            return []
        return [f"clip is {distill.clip:g}; rtp has a limit of its own: set rtp.clip ({distill.rtp.clip:g})"]

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return whether bases are missing, or ``init`` means nothing beside them."""
        rtp, problems = trial.distill.rtp, []
        if rtp.bases is None and "distill.rtp.bases" not in published:
            problems.append(
                f"distill.rtp.bases is missing: none is published for data.name {trial.data.name!r} at distill.ipc "
                f"{trial.distill.ipc}; give a number (0 learns the images themselves)"
            )
        if rtp.init != "real" and rtp.bases != 0:
            problems.append(
                f"distill.rtp.init is {rtp.init!r}, which means something without bases alone: set distill.rtp.bases "
                "to 0, or leave it out"
            )
        return problems

    def cost_values(self, distill: DistillConfig) -> dict[str, Any]:
        """Return the counts, and the augmentation where it is not DSA's."""
        augment = {} if distill.rtp.augment == "dsa" else {"augment": distill.rtp.augment}
        return super().cost_values(distill) | augment

    def image_values(self, distill: DistillConfig) -> dict[str, Any]:
        """Return what decides how many images the storage decodes to."""
        return {"rtp": {"bases": distill.rtp.bases, "downsample": distill.rtp.downsample}}

    def what_to_halve(self, distill: DistillConfig) -> list[str]:
        """Return what makes the graph of the unrolled steps smaller."""
        rtp = distill.rtp
        return [
            *less_graph("distill.rtp", rtp.gradient),
            *half("distill.rtp.batch_per_class", rtp.batch_per_class),
            *half("distill.rtp.real_batch", rtp.real_batch),
            *half("distill.rtp.steps", rtp.steps),
        ]


def decoded_per_class(ipc: int, classes: int, channels: int, size: int, bases: int, downsample: int) -> int:
    """Return how many images a class the storage of ``ipc`` images a class holds, as bases and coefficients.

    The bases take bases·C·(S/d)² numbers, what is left is coefficient vectors of one number a base.

    Args:
        ipc: The budget: ipc·K·C·S² numbers.
        classes: K.
        channels: C.
        size: S, in pixels.
        bases: Shared by all classes.
        downsample: d, by which the bases' side is divided.

    Raises:
        BadInput: if the bases leave no room for one coefficient vector a class.
    """
    left = ipc * classes * channels * size * size - bases * channels * (size // downsample) ** 2
    count = left // (classes * bases)
    if count < 1:
        raise BadInput(
            f"distill.rtp.bases is {bases}: they take all of the storage of {ipc} images a class, and leave no "
            "coefficients: take fewer, or a larger distill.rtp.downsample"
        )
    return count


SPECS = (RTP(),)
