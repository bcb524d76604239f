"""DATM: MTT on windows of difficulty, with learned soft labels (method.md, DATM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddcal.config.backbones.mtt import MTT

if TYPE_CHECKING:
    from ddcal.config.trial import DistillConfig, TrialConfig

# Where a window does not grow its first end is its last one, so that rows between two can be interpolated.
PUBLISHED: dict[str, Any] = {
    "source": (
        'the configs of the public code of DATM (Guo et al., "Towards Lossless Dataset Distillation via '
        'Difficulty-Aligned Trajectory Matching", ICLR 2024), for the ConvNet'
    ),
    "like": "cifar10",
    "exact": ["data.zca"],
    "any": {
        "all": {
            "distill.iterations": 10000,
            "distill.mtt.first_images": "correct",
            "distill.mtt.label_momentum": 0.9,
            "distill.mtt.rate": 0.01,
            "train.epochs": 1000,
            "train.augment": "dsa",
        },
    },
    "cifar10": {
        "all": {
            "distill.mtt.expert_epochs": 2,
            "data.zca": True,
        },
        1: {
            "distill.mtt.min_start": 0,
            "distill.mtt.student_steps": 80,
            "distill.mtt.first_max_start": 4,
            "distill.mtt.max_start": 4,
            "distill.mtt.expand_until": 1000,
            "distill.mtt.batch": None,
            "distill.mtt.image_lr": 100.0,
            "distill.mtt.rate_lr": 1e-07,
            "distill.mtt.label_lr": 5.0,
        },
        10: {
            "distill.mtt.min_start": 0,
            "distill.mtt.student_steps": 80,
            "distill.mtt.first_max_start": 10,
            "distill.mtt.max_start": 20,
            "distill.mtt.expand_until": 1000,
            "distill.mtt.batch": None,
            "distill.mtt.image_lr": 100.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.label_lr": 2.0,
        },
        50: {
            "distill.mtt.min_start": 0,
            "distill.mtt.student_steps": 80,
            "distill.mtt.first_max_start": 20,
            "distill.mtt.max_start": 40,
            "distill.mtt.expand_until": 2000,
            "distill.mtt.batch": None,
            "distill.mtt.image_lr": 1000.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.label_lr": 2.0,
        },
        500: {
            "distill.mtt.min_start": 40,
            "distill.mtt.student_steps": 40,
            "distill.mtt.first_max_start": 60,
            "distill.mtt.max_start": 60,
            "distill.mtt.expand_until": None,
            "distill.mtt.batch": 1000,
            "distill.mtt.image_lr": 50.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.label_lr": 10.0,
        },
        1000: {
            "distill.mtt.min_start": 40,
            "distill.mtt.student_steps": 100,
            "distill.mtt.first_max_start": 60,
            "distill.mtt.max_start": 60,
            "distill.mtt.expand_until": None,
            "distill.mtt.batch": 1000,
            "distill.mtt.image_lr": 50.0,
            "distill.mtt.rate_lr": 1e-05,
            "distill.mtt.label_lr": 10.0,
        },
    },
    "cifar100": {
        "all": {"distill.mtt.rate_lr": 1e-05, "distill.mtt.label_lr": 10.0, "data.zca": True},
        1: {
            "distill.mtt.student_steps": 40,
            "distill.mtt.expert_epochs": 3,
            "distill.mtt.min_start": 0,
            "distill.mtt.first_max_start": 20,
            "distill.mtt.max_start": 30,
            "distill.mtt.expand_until": 1000,
            "distill.mtt.batch": None,
            "distill.mtt.first_images": "correct",
            "distill.mtt.image_lr": 1000.0,
        },
        10: {
            "distill.mtt.student_steps": 80,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.min_start": 0,
            "distill.mtt.first_max_start": 30,
            "distill.mtt.max_start": 50,
            "distill.mtt.expand_until": 2000,
            "distill.mtt.batch": 1000,
            "distill.mtt.first_images": "correct",
            "distill.mtt.image_lr": 1000.0,
        },
        50: {
            "distill.mtt.student_steps": 80,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.min_start": 20,
            "distill.mtt.first_max_start": 70,
            "distill.mtt.max_start": 70,
            "distill.mtt.expand_until": None,
            "distill.mtt.batch": 1000,
            "distill.mtt.image_lr": 1000.0,
            "distill.mtt.first_images": "any",
        },
        100: {
            "distill.mtt.student_steps": 80,
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.min_start": 30,
            "distill.mtt.first_max_start": 70,
            "distill.mtt.max_start": 70,
            "distill.mtt.expand_until": None,
            "distill.mtt.batch": 1000,
            "distill.mtt.image_lr": 50.0,
            "distill.mtt.first_images": "correct",
        },
    },
    "tiny-imagenet": {
        "all": {
            "distill.mtt.expert_epochs": 2,
            "distill.mtt.rate_lr": 0.0001,
            "distill.mtt.label_lr": 10.0,
            "data.zca": True,
        },
        1: {
            "distill.mtt.student_steps": 40,
            "distill.mtt.min_start": 0,
            "distill.mtt.first_max_start": 15,
            "distill.mtt.max_start": 20,
            "distill.mtt.expand_until": 2000,
            "distill.mtt.batch": None,
            "distill.mtt.image_lr": 10000.0,
        },
        10: {
            "distill.mtt.student_steps": 40,
            "distill.mtt.min_start": 10,
            "distill.mtt.first_max_start": 50,
            "distill.mtt.max_start": 50,
            "distill.mtt.expand_until": None,
            "distill.mtt.batch": 500,
            "distill.mtt.image_lr": 100.0,
        },
        50: {
            "distill.mtt.student_steps": 20,
            "distill.mtt.min_start": 40,
            "distill.mtt.first_max_start": 70,
            "distill.mtt.max_start": 70,
            "distill.mtt.expand_until": None,
            "distill.mtt.batch": 1000,
            "distill.mtt.image_lr": 100.0,
        },
    },
}

REFERENCE_OF_DATM: dict[str, Any] = {
    "source": "the public code of DATM",
    # Its configs train on sets in batches of 128; that the batches of a pass are taken from its end changes nothing, as
    # `distill.mtt.batch` divides the images in all of them.
    "any": {"all": {"train.schedule": "step_reference", "train.batch_size": 128}},
}


class DATM(MTT):
    """``datm``: its settings are those of ``mtt``, with `DIFFICULTY` of its own beside them."""

    name = "datm"
    distiller = "ddcal.distill.datm:DifficultyAligned"
    version = 1
    presets = {"published": PUBLISHED, "reference": REFERENCE_OF_DATM}  # noqa: RUF012 - never changed

    def fill(self, section: dict[str, Any]) -> None:
        """Make explicit where the window begins, and that it does not grow where nothing says so."""
        super().fill(section)
        if section.get("min_start") is None:
            section["min_start"] = 0
        if section.get("first_max_start") is None:
            section["first_max_start"] = section["max_start"]
        if section["init"] == "noise":  # there are no real images to choose
            section["first_images"] = None

    def section_problems(self, distill: DistillConfig) -> list[str]:
        """Return nothing: settings that MTT has not are its own."""
        return []

    def problems(self, trial: TrialConfig, published: Mapping[str, Any]) -> list[str]:
        """Return also whether a window is empty, or shrinks, or grows without an end."""
        mtt = trial.distill.mtt
        values = {name: getattr(mtt, name) for name in ("min_start", "first_max_start", "max_start", "expand_until")}
        values = {
            name: published.get(f"distill.mtt.{name}") if value is None else value for name, value in values.items()
        }
        low, last = values["min_start"] or 0, values["max_start"]
        first = values["first_max_start"] or last
        problems = super().problems(trial, published)

        def said(name: str) -> str:
            taken = getattr(mtt, name) is None and values[name] is not None
            return f"distill.mtt.{name} is {values[name]}" + (
                f" (the preset of distill.ipc {trial.distill.ipc})" if taken else ""
            )

        if last is None or first is None:
            return problems
        if first > last:
            problems.append(
                f"{said('first_max_start')}, but {said('max_start')}: a window of start epochs grows; set "
                f"distill.mtt.first_max_start to at most {last}"
            )
        elif low >= first:
            end = "first_max_start" if values["first_max_start"] else "max_start"
            problems.append(
                f"{said('min_start')}, but {said(end)}, before which an expert's epoch is drawn: there is none; lower "
                "distill.mtt.min_start"
            )
        elif first < last and values["expand_until"] is None:
            problems.append(
                f"distill.mtt.expand_until is missing: by which iteration the window has grown from "
                f"distill.mtt.first_max_start {first} to distill.mtt.max_start {last}"
            )
        if mtt.first_images is not None and mtt.init == "noise":
            problems.append(
                f"distill.mtt.first_images is {mtt.first_images!r} but distill.mtt.init is 'noise', which takes no "
                "real images: use 'real', or leave it out"
            )
        return problems

    def soft_labels(self, distill: DistillConfig) -> bool:
        """Return whether labels are learned: unless ``label_lr`` is 0, as every published row has a rate."""
        return distill.mtt.label_lr != 0.0

    def notes(self, distill: DistillConfig) -> list[str]:
        """Return also that a window does not grow to its end."""
        mtt, notes = distill.mtt, super().notes(distill)
        first, last, until = mtt.first_max_start or 0, mtt.max_start or 0, mtt.expand_until or 1
        end = first + (last - first) * ((distill.iterations or 1) - 1) // until
        if end < last:
            notes.append(
                f"distill.mtt.expand_until is {until}, and distill.iterations {distill.iterations}: no student starts "
                f"at epoch {end} or later, though distill.mtt.max_start is {last}; lower expand_until"
            )
        return notes

    def quiet(self, distill: DistillConfig, rate: float) -> DistillConfig:
        """Return also first images that an expert need not look at: a made-up one gets none right."""
        quiet = super().quiet(distill, rate)
        return quiet.model_copy(update={"mtt": quiet.mtt.model_copy(update={"first_images": "any"})})


SPECS = (DATM(),)
