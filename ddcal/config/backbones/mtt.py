"""Matching training trajectories: a student on synthetic images is to end where experts do (method.md, MTT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ddcal.config.backbones.base import NO_STATISTICS, Backbone, Momentum
from ddcal.config.backbones.halving import half, less_graph
from ddcal.config.base import Config, NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig, TrialConfig


NonNegativeInt = Annotated[int, Field(ge=0)]

WINDOW = ("min_start", "first_max_start", "expand_until")
"""Settings of the section ``mtt`` that say, with ``max_start``, at which epochs a student of DATM starts."""

DIFFICULTY = (*WINDOW, "first_images", "label_momentum")
"""Settings of the section ``mtt`` that DATM alone has."""


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
    ``auto`` is ``full`` where the graph is small, else ``exact``, and ``tesla`` an approximation, whose cosine to the
    exact gradient is reported. With ``label_lr`` labels are learned with the images: their logits begin as the first
    expert's, after its last epoch (as DATM's do), and this is the rate of their SGD; 0 is without.

    DATM (``datm``) alone has a window of start epochs, from ``min_start`` (T⁻) and below an end that grows from
    ``first_max_start`` (T) to ``max_start`` (T⁺) by iteration ``expand_until``; real ``first_images`` that an expert
    classifies correctly (``correct``) or ``any``; and ``label_momentum``, which is ``momentum`` for MTT.
    """

    student_steps: PositiveInt | None = None
    expert_epochs: PositiveInt | None = None
    max_start: PositiveInt | None = None
    batch: PositiveInt | None = None
    remainder: Literal["last", "first"] | None = None
    image_lr: PositiveFloat | None = None
    rate: PositiveFloat | None = None
    rate_lr: PositiveFloat | None = None
    label_lr: NonNegativeFloat | None = None
    min_start: NonNegativeInt | None = None
    first_max_start: PositiveInt | None = None
    expand_until: PositiveInt | None = None
    first_images: Literal["any", "correct"] | None = None
    label_momentum: Momentum | None = None
    momentum: Momentum = 0.5
    gradient: Literal["auto", "exact", "segments", "full", "tesla"] = "auto"
    init: Literal["noise", "real"] = "real"
    experts: ExpertsConfig = ExpertsConfig()

    @model_validator(mode="after")
    def _check(self) -> MTTConfig:
        problem = too_few_epochs(self.experts.epochs, self.max_start, self.expert_epochs)
        if problem:
            raise ValueError(problem)
        return self

    @model_serializer(mode="wrap")
    def _without_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in ("label_lr", *DIFFICULTY):
            if values.get(name) is None:  # as configs were before labels were learned, and before DATM
                values.pop(name, None)
        return values

    @property
    def kept_epochs(self) -> int:
        """How many epochs an expert trains, once the config is resolved: as given, or the last that can be read."""
        if self.experts.epochs:
            return self.experts.epochs
        assert self.max_start and self.expert_epochs, "the config must be resolved"
        return self.max_start - 1 + self.expert_epochs


def too_few_epochs(epochs: int | None, max_start: int | None, expert_epochs: int | None) -> str | None:
    """Return a sentence if experts of so many epochs end before the last epoch that is read; None is not known yet."""
    if epochs is None or max_start is None or expert_epochs is None or epochs >= max_start - 1 + expert_epochs:
        return None
    return (
        f"experts.epochs is {epochs}, but epoch {max_start - 1 + expert_epochs} is read (max_start {max_start} + "
        f"expert_epochs {expert_epochs} - 1): raise it, or leave it out"
    )


PUBLISHED: dict[str, Any] = {
    "source": 'Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022',
    "like": "cifar10",
    "exact": ["data.zca"],
    "any": {
        "all": {
            "distill.iterations": 5000,
            "train.epochs": 1000,
            "train.augment": "dsa",
        },
    },
    "cifar10": {
        "all": {
            "distill.mtt.expert_epochs": 2,
        },
        1: {
            "distill.mtt.student_steps": 50,
            "distill.mtt.max_start": 2,
            "distill.mtt.image_lr": 100.0,
            "distill.mtt.rate_lr": 1e-07,
            "distill.mtt.rate": 0.01,
            "data.zca": True,
        },
        10: {
            "distill.mtt.student_steps": 30,
            "distill.mtt.max_start": 20,
            "distill.mtt.image_lr": 100.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.rate": 0.001,
            "data.zca": True,
        },
        50: {
            "distill.mtt.student_steps": 30,
            "distill.mtt.max_start": 40,
            "distill.mtt.image_lr": 1000.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.rate": 0.001,
        },
    },
    "cifar100": {
        "all": {
            "distill.mtt.image_lr": 1000.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.rate": 0.01,
        },
        1: {
            "distill.mtt.student_steps": 20,
            "distill.mtt.expert_epochs": 3,
            "distill.mtt.max_start": 20,
            "distill.mtt.batch": None,
            "data.zca": True,
        },
        10: {
            "distill.mtt.student_steps": 20,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.max_start": 20,
            "distill.mtt.batch": None,
        },
        50: {
            "distill.mtt.student_steps": 80,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.max_start": 40,
            "distill.mtt.batch": 125,
            "data.zca": True,
        },
    },
    "tiny-imagenet": {
        "all": {
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.image_lr": 10000.0,
            "distill.mtt.rate_lr": 0.0001,
            "distill.mtt.rate": 0.01,
        },
        1: {
            "distill.mtt.student_steps": 10,
            "distill.mtt.max_start": 10,
            "distill.mtt.batch": None,
        },
        10: {
            "distill.mtt.student_steps": 20,
            "distill.mtt.max_start": 40,
            "distill.mtt.batch": 200,
        },
        50: {
            "distill.mtt.student_steps": 20,
            "distill.mtt.max_start": 40,
            "distill.mtt.batch": 300,
        },
    },
    "imagenette": {
        "all": {
            "distill.mtt.student_steps": 20,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.max_start": 10,
            "distill.mtt.image_lr": 100000.0,
            "distill.mtt.rate_lr": 1e-06,
            "distill.mtt.rate": 0.01,
        },
        1: {
            "distill.mtt.batch": None,
        },
        10: {
            "distill.mtt.batch": 20,
        },
    },
}

RETHINKING: dict[str, Any] = {
    "source": 'the supplement of "Rethinking Data Distillation", ICCV 2023',
    "cifar10": {
        50: {
            "distill.mtt.max_start": 20,
            "distill.mtt.image_lr": 100.0,
            "data.zca": True,
        },
    },
    "cifar100": {
        5: {
            "distill.mtt.student_steps": 20,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.max_start": 20,
            "distill.mtt.batch": None,
            "data.zca": True,
        },
        10: {
            "data.zca": True,
        },
        30: {
            "distill.mtt.student_steps": 40,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.max_start": 30,
            "distill.mtt.batch": None,
            "data.zca": True,
        },
    },
}

REFERENCE_OF_MTT: dict[str, Any] = {
    "source": "the public code of MTT",
    "any": {
        "all": {
            "train.schedule": "step_reference",
        },
    },
    "tiny-imagenet": {
        1: {
            "distill.mtt.remainder": None,
        },
        10: {
            "distill.mtt.remainder": None,
        },
        50: {
            "distill.mtt.remainder": "first",
        },
    },
}


class MTT(Backbone):
    """``mtt``; ``tesla`` is a way to its gradient."""

    name = "mtt"
    distiller = "ddcal.distill.mtt:TrajectoryMatching"
    version = 2  # since the second derivative of instance norm is a formula
    section = "mtt"
    settings = MTTConfig
    takes_experts = True
    learns_rate = True
    two_passes = False
    no_batch_norm = NO_STATISTICS
    no_formation = ""
    usual = {"remainder": (None, "last"), "label_lr": (None, 0.0)}  # noqa: RUF012 - never changed
    costless = ("max_start", "expert_epochs", *WINDOW)  # which epochs of experts are read
    presets = {  # noqa: RUF012 - never changed
        "published": PUBLISHED,
        "rethinking": RETHINKING,
        "reference": REFERENCE_OF_MTT,
    }

    def fill(self, section: dict[str, Any]) -> None:
        """Make explicit how long experts are trained: to the last epoch that is read."""
        if section["experts"]["epochs"] is None:
            section["experts"]["epochs"] = section["max_start"] - 1 + section["expert_epochs"]

    def section_problems(self, distill: DistillConfig) -> list[str]:
        """Return settings that DATM alone has."""
        given = {name: getattr(distill.mtt, name) for name in DIFFICULTY}
        return [
            f"mtt.{name} is {value!r}, which {self.name} has not: set backbone to 'datm', or leave it out"
            for name, value in given.items()
            if value is not None
        ]

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return whether experts end too early, or a remainder is asked for where there is none."""
        mtt, problems = trial.distill.mtt, []
        label_lr = published.get("distill.mtt.label_lr") if mtt.label_lr is None else mtt.label_lr
        if label_lr and mtt.init == "noise":
            problems.append(
                f"distill.mtt.label_lr is {label_lr:g} but distill.mtt.init is 'noise', to which an expert has no "
                "answer: use 'real', or set distill.mtt.label_lr to 0"
            )
        problem = too_few_epochs(
            mtt.experts.epochs,
            mtt.max_start or published.get("distill.mtt.max_start"),
            mtt.expert_epochs or published.get("distill.mtt.expert_epochs"),
        )
        if problem:
            problems.append(f"distill.mtt.{problem} (the preset of distill.ipc {trial.distill.ipc})")
        if mtt.remainder == "first" and (mtt.batch or published.get("distill.mtt.batch")) is None:
            problems.append(
                "distill.mtt.remainder is 'first', but all images are one batch, which leaves none: set "
                "distill.mtt.batch, or leave it out"
            )
        return problems

    def soft_labels(self, distill: DistillConfig) -> bool:
        """Return whether labels are learned."""
        return bool(distill.mtt.label_lr)

    def cost_values(self, distill: DistillConfig) -> dict[str, Any]:
        """Return the counts, and the way to the gradient."""
        return super().cost_values(distill) | {"gradient": distill.mtt.gradient}

    def what_to_halve(self, distill: DistillConfig) -> list[str]:
        """Return what makes the graph of the student's steps smaller."""
        mtt = distill.mtt
        batch = half("distill.mtt.batch", mtt.batch) if mtt.batch else []
        return [
            *less_graph("distill.mtt", mtt.gradient),
            *(batch or ["distill.mtt.batch (the whole set → half of it)"]),
            *half("distill.mtt.student_steps", mtt.student_steps or 1),
            *half("distill.formation.factor", distill.formation.factor),
        ]

    def notes(self, distill: DistillConfig) -> list[str]:
        """Return that a gradient is an approximation."""
        if distill.mtt.gradient != "tesla":
            return []
        return [
            "distill.mtt.gradient is 'tesla', an approximation: the metric distill/gradient_cosine says how near the "
            "exact gradient it is"
        ]

    def quiet(self, distill: DistillConfig, rate: float) -> DistillConfig:
        """Return ``distill`` with tiny rates of the images, of labels and of the student's rate."""
        quiet: dict[str, Any] = {"image_lr": rate, "rate_lr": rate}
        quiet |= {"label_lr": rate} if distill.mtt.label_lr else {}
        return distill.model_copy(update={"mtt": distill.mtt.model_copy(update=quiet)})


SPECS = (MTT(),)
