"""The settings of each distillation backbone; None takes the published value (`ddcal.config.presets`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ddcal.config.augmentations import DistillAugment
from ddcal.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt, Ratio

SECTIONS = ("matching", "dm", "mtt", "rtp", "file")
OWN_SECTION = {"dc": "matching", "dsa": "matching", "dm": "dm", "mtt": "mtt", "rtp": "rtp", "file": "file"}
"""Backbone → the section of ``distill`` that is its own; the others have no effect on it."""

Momentum = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]


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


class DMConfig(Config):
    """Distribution matching; method.md, DM."""

    real_batch: PositiveInt = 256
    image_lr: PositiveFloat = 1.0
    image_momentum: Momentum = 0.5
    init: Literal["noise", "real"] = "real"


class ExpertsConfig(Config):
    """The trajectories that MTT matches: networks trained on the real data, kept epoch by epoch; method.md, MTT.

    Only the epochs that can be read are trained and kept: ``max_start`` + ``expert_epochs`` − 1 of them. ``epochs``
    says so explicitly: trials that read different epochs (other IPCs) share experts that are long enough for all.
    ``precision`` is that of the file: half of it halves the disk and moves the weights by up to 0.05 % (float16).
    """

    count: PositiveInt = 100
    epochs: PositiveInt | None = None
    lr: PositiveFloat = 0.01
    momentum: Momentum = 0.0
    weight_decay: NonNegativeFloat = 0.0
    batch_size: PositiveInt = 256
    augment: Literal["none", "dsa"] = "dsa"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"


class MTTConfig(Config):
    """Matching training trajectories; method.md, MTT.

    ``rate`` is where the student's learned rate starts and ``rate_lr`` the rate of learning it. ``batch`` is images a
    student step; a set with no more images is taken whole. A pass over images that ``batch`` does not divide ends with
    the smaller batch that is left (``remainder: last``, the default), or begins with it, as in the authors' code, which
    takes a pass's batches from its end (``first``). ``gradient``: see `ddcal.distill.unroll.unroll_gradient`;
    ``tesla`` is an approximation, whose cosine to the exact gradient is reported.
    """

    student_steps: PositiveInt | None = None
    expert_epochs: PositiveInt | None = None
    max_start: PositiveInt | None = None
    batch: PositiveInt | None = None
    remainder: Literal["last", "first"] | None = None
    image_lr: PositiveFloat | None = None
    rate: PositiveFloat | None = None
    rate_lr: PositiveFloat | None = None
    momentum: Momentum = 0.5
    gradient: Literal["exact", "segments", "full", "tesla"] = "exact"
    init: Literal["noise", "real"] = "real"
    experts: ExpertsConfig = ExpertsConfig()

    @model_validator(mode="after")
    def _check(self) -> MTTConfig:
        problem = too_few_epochs(self.experts.epochs, self.max_start, self.expert_epochs)
        if problem:
            raise ValueError(problem)
        return self

    @property
    def kept_epochs(self) -> int:
        """How many epochs an expert trains, once the config is resolved: as given, or the last that can be read."""
        assert self.max_start and self.expert_epochs, "the config must be resolved"
        return self.experts.epochs or self.max_start - 1 + self.expert_epochs


def too_few_epochs(epochs: int | None, max_start: int | None, expert_epochs: int | None) -> str | None:
    """Return a sentence if experts of so many epochs end before the last epoch that is read; None is not known yet."""
    if epochs is None or max_start is None or expert_epochs is None or epochs >= max_start - 1 + expert_epochs:
        return None
    return (
        f"experts.epochs is {epochs}, but epoch {max_start - 1 + expert_epochs} is read (max_start {max_start} + "
        f"expert_epochs {expert_epochs} - 1): raise it, or leave it out"
    )


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
    gradient: Literal["exact", "segments", "full"] = "exact"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Means = Annotated[tuple[FiniteFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=16)]
Stds = Annotated[tuple[PositiveFloat, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=16)]


class FileConfig(Config):
    """A distilled set that others made, read from a file (``.pt``, ``.npz`` or ``.safetensors``).

    Attributes:
        images: Path of the images (M, C, S, S), alone or with their labels.
        labels: Path of the labels (M,), where they lie in a file of their own.
        preprocessing: What was done to the images before they were stored: ``normalized`` (a mean and a std per
            channel), ``zca``, or nothing (``pixels``: uint8, or floats in [0, 1]).
        mean: The mean of each channel that they were normalized with; left out, it is that of the dataset here.
        std: The std of each channel, with ``mean``.
        lr: The learning rate that was learned with the images (MTT); the default of ``train.lr``.
        index: Which set, where the file holds several (those of DC, DSA and DM do).
    """

    images: str | None = None
    labels: str | None = None
    preprocessing: Literal["normalized", "zca", "pixels"] | None = None
    mean: Means | None = None
    std: Stds | None = None
    lr: PositiveFloat | None = None
    index: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> FileConfig:
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{given} is given without {missing}: give both, one number a channel, or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}: give one a channel in each")
        if self.mean is not None and self.preprocessing not in (None, "normalized"):
            raise ValueError(f"preprocessing is {self.preprocessing!r}, which has no mean and std: leave them out")
        return self
