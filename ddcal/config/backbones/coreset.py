"""Coresets: real images of each class that experts choose, by their features or their errors (distillation.md).

``herding``, ``k_center`` and ``el2n`` take images as they are, ``rded`` the best crops of them. They need experts as
MTT does (``distill.mtt.experts``), but few of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddcal.config.backbones.base import REFERENCE_OF_DC, Backbone
from ddcal.config.backbones.mtt import too_few_epochs
from ddcal.config.base import Config, PositiveInt
from ddcal.errors import BadInput

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig, TrialConfig

EXPERT_EPOCHS = "distill.mtt.experts.epochs"

SMALL_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet")
"""Datasets of at most 64 pixels, where RDED takes one crop an image, as its authors' scripts do for CIFAR and Tiny."""

Row = Mapping[str, Any]

OF_CROPS = ("candidates", "crops", "factor")
"""Settings of ``rded`` alone."""


class CoresetConfig(Config):
    """Coresets (``herding``, ``k_center``, ``el2n``, ``rded``): which experts choose, and among what; distillation.md.

    ``experts`` is how many: their features stand side by side (herding, k_center), their errors and losses are averaged
    (el2n, rded); left out it is 5 for el2n and 1 for the others. They are as they were after ``epoch`` epochs, left out
    their last one. ``hardest`` has el2n take the images of the largest error instead of the smallest. RDED draws
    ``candidates`` images of each class, or all where there are fewer, and ``crops`` random crops of each of them;
    ``factor``² of the best are stitched into one image: left out 1 (no stitching) for data that is known to have at
    most 64 pixels, and 2 elsewhere.
    """

    experts: PositiveInt | None = None
    epoch: PositiveInt | None = None
    hardest: bool = False
    candidates: PositiveInt = 300
    crops: PositiveInt = 5
    factor: PositiveInt | None = None


def _presets(experts: int, every: Row | None = None, small: Row | None = None) -> dict[str, dict[str, Any]]:
    """Return the recipes of a backbone that takes so many experts, for 20 epochs, as MTT reads them at ipc 10.

    Args:
        experts: How many it takes.
        every: What else holds.
        small: What holds instead for `SMALL_SETS`.
    """
    row = {"distill.iterations": 1, "train.epochs": 300, "train.augment": "none", EXPERT_EPOCHS: 20}
    published: dict[str, Any] = {
        "source": "ddcal's own experts; evaluated as DC's (Zhao, Mopuri, Bilen, ICLR 2021)",
        "any": {"all": {**row, "distill.coreset.experts": experts, **(every or {})}},
        **({name: {"all": small} for name in SMALL_SETS} if small else {}),
    }
    return {"published": published, "reference": REFERENCE_OF_DC}


class _Coreset(Backbone):
    """What all coresets share."""

    section = "coreset"
    settings = CoresetConfig
    learns = False
    takes_experts = True
    no_batch_norm = "experts keep their weights and no running statistics"

    def experts(self, distill: DistillConfig) -> int:
        """Return how many it takes."""
        return distill.coreset.experts or 1

    def fill_distill(self, distill: dict[str, Any]) -> None:
        """Make explicit after which epoch experts choose: after their last one."""
        if distill["coreset"]["epoch"] is None:
            distill["coreset"]["epoch"] = distill["mtt"]["experts"]["epochs"]

    def section_problems(self, distill: DistillConfig) -> list[str]:
        """Return whether experts end before the epoch that is asked for."""
        epoch, epochs = distill.coreset.epoch, distill.mtt.experts.epochs
        return [] if epoch is None or epochs is None or epoch <= epochs else [_too_late(epoch, epochs)]

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return whether experts that are left to the preset end before an epoch that is asked for."""
        distill, epochs = trial.distill, published[EXPERT_EPOCHS]
        if distill.mtt.experts.epochs is not None:
            return []
        problems = []
        if distill.coreset.epoch is not None and distill.coreset.epoch > epochs:
            problems.append(f"distill.{_too_late(distill.coreset.epoch, epochs)}")
        if too_few_epochs(epochs, distill.mtt.max_start, distill.mtt.expert_epochs):
            problems.append(
                f"{EXPERT_EPOCHS} is missing: {self.name} would train experts for {epochs} epochs, fewer than "
                "distill.mtt.max_start and distill.mtt.expert_epochs read; give it for both"
            )
        return problems

    def cost_values(self, distill: DistillConfig) -> dict[str, Any]:
        """Return the counts that have an effect."""
        values = distill.coreset.model_dump(exclude={"epoch", "hardest", *self.unused})
        return {self.section: values}


class Herding(_Coreset):
    """``herding``: the mean of the features of the chosen images stays as near as it can to that of the class."""

    name = "herding"
    distiller = "ddcal.distill.coreset:Herding"
    unused = ("hardest", *OF_CROPS)
    presets = _presets(1)


class KCenter(_Coreset):
    """``k_center``: the image whose features are farthest from those of the chosen ones comes next."""

    name = "k_center"
    distiller = "ddcal.distill.coreset:KCenter"
    unused = ("hardest", *OF_CROPS)
    presets = _presets(1)


class EL2N(_Coreset):
    """``el2n``: the images of the smallest mean error of several experts, or of the largest."""

    name = "el2n"
    distiller = "ddcal.distill.coreset:SmallestErrors"
    unused = OF_CROPS
    presets = _presets(5)  # the paper's ten cost twice as much; a mean of five is 1.4 times as uncertain


class RDED(_Coreset):
    """``rded``: crops of real images of which an expert is surest, stitched together."""

    name = "rded"
    distiller = "ddcal.distill.rded:StitchedCrops"
    unused = ("hardest",)
    presets = _presets(1, {"distill.coreset.factor": 2}, {"distill.coreset.factor": 1})

    def images_per_class(self, distill: DistillConfig, classes: int, channels: int, size: int) -> int:
        """Return how many stitched images of every class there are.

        Raises:
            BadInput: if there are more crops side by side than pixels.
        """
        if (factor := distill.coreset.factor or 1) > size:
            raise BadInput(_too_small(factor, size))
        return super().images_per_class(distill, classes, channels, size)

    def real_images(self, distill: DistillConfig) -> int:
        """Return how many different images of a class the crops are of."""
        return distill.ipc * (distill.coreset.factor or 1) ** 2

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return whether there are fewer candidates, or pixels, than crops are taken."""
        coreset, ipc = trial.distill.coreset, trial.distill.ipc
        factor, size = (
            coreset.factor or published["distill.coreset.factor"],
            trial.data.resolution or trial.data.spec.side,
        )
        problems = super().problems(trial, published)
        if size and factor > size:  # else the files say how many pixels there are
            problems.append(_too_small(factor, size))
        if coreset.candidates < ipc * factor**2:
            problems.append(
                f"distill.coreset.candidates is {coreset.candidates}, but distill.ipc {ipc} with "
                f"distill.coreset.factor {factor} takes crops of {ipc * factor**2} images of a class: raise it"
            )
        return problems


def _too_small(factor: int, size: int) -> str:
    return (
        f"distill.coreset.factor is {factor}, but images have {size} pixels a side: a crop needs one, so it must be at "
        f"most {size}"
    )


def _too_late(epoch: int, epochs: int) -> str:
    return (
        f"coreset.epoch is {epoch}, but experts end after epoch {epochs} ({EXPERT_EPOCHS}): lower it, or train them "
        "longer"
    )


SPECS = (Herding(), KCenter(), EL2N(), RDED())
