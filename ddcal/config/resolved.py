"""Trials with everything made explicit that a config leaves to a preset or a default."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ddcal.config.backbones import backbone, is_own_backbone
from ddcal.config.calibrations import default_bounds
from ddcal.config.presets import DEFAULT_RATE, TRAIN_DEFAULTS, preset, preset_of
from ddcal.config.trial import DistillConfig, TrialConfig


def resolve_distill(config: DistillConfig, dataset: str) -> DistillConfig:
    """Return the distill section with what it left out filled in for a dataset's name; its network stays partial."""
    found = preset(config.family, config.backbone, dataset, config.ipc)
    values = config.model_dump()
    _fill_settings(values)
    _fill(values, {n.removeprefix("distill."): v for n, v in found.values.items() if n.startswith("distill.")})
    _fill_section(values)
    return DistillConfig.model_validate(values)


def resolve(trial: TrialConfig) -> TrialConfig:
    """Return the trial with every setting that was left to a preset or a default made explicit.

    Resolving twice changes nothing. ``network.depth`` and ``data.resolution`` stay None where they follow the data, and
    ``train.lr`` of a set whose rate is learned.
    """
    values = trial.model_dump()
    values["data"]["validation_fraction"] = trial.data.resolved_validation_fraction
    spec = trial.distill.spec
    _fill_settings(values["distill"])
    _fill(values, {"train.augment": spec.augment(trial.distill)})
    _fill(values, preset_of(trial).values)
    _fill_section(values["distill"])
    if trial.labels.by_experts:
        labels, experts = values["labels"], values["distill"]["mtt"]["experts"]
        if experts["epochs"] is None:  # nothing but labels asks for them
            experts["epochs"] = labels["epoch"]
        if labels["epoch"] is None:
            labels["epoch"] = experts["epochs"]
    _fill(values["train"], TRAIN_DEFAULTS)
    if values["train"]["lr"] is None and not spec.learns_rate:
        values["train"]["lr"] = spec.rate(trial.distill) or DEFAULT_RATE
    values["distill"]["network"] = trial.distill.network.over(trial.network).model_dump()
    values["train"]["network"] = trial.train.network.over(trial.network).model_dump()
    low, high = default_bounds(trial.calibrate.method, full_data=not spec.distills)
    _fill(values, {"calibrate.t_min": low, "calibrate.t_max": high})
    return TrialConfig.model_validate(values)


def _fill_settings(distill: dict[str, Any]) -> None:
    """Make explicit the defaults of a user's own backbone, and those of a section that has nothing else."""
    spec = backbone(distill["backbone"])
    if is_own_backbone(distill["backbone"]):
        distill["settings"] = spec.settings.model_validate(distill.get("settings", {})).model_dump()
    elif spec.section and spec.section not in distill:
        distill[spec.section] = spec.settings().model_dump()


def _fill_section(distill: dict[str, Any]) -> None:
    """Make explicit what follows from other settings of ``distill``."""
    backbone(distill["backbone"]).fill_distill(distill)


def _fill(values: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Put defaults under their dotted names where ``values`` hold None."""
    for name, value in defaults.items():
        *sections, last = name.split(".")
        place = functools.reduce(lambda found, section: found[section], sections, values)
        if place.get(last) is None:  # a few are in a dump only where they are given
            place[last] = value
