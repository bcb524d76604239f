"""The resolved values of a study's base: what is fixed, and where a preset depends on what is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddcal.config import StudyConfig, resolve, trial_from
from ddcal.config.backbones import SECTIONS, backbone
from ddcal.config.names import nest
from ddcal.config.presets import preset_of
from ddcal.config.training import LOSS_SECTIONS
from ddcal.config.trial import flatten
from ddcal.study.plan.planned import PlannedTrial

AFTER_DISTILL = ("labels", "train", "calibrate", "evaluate")
"""Sections without effect where trials end with the distilled set."""


@dataclass(frozen=True)
class Setting:
    """One value, or one of several, of a name that is not searched.

    Attributes:
        name: The dotted name.
        value: Its resolved value.
        where: What decides over it, for example ``distill.backbone=dsa``; empty where it is always this.
        source: ``study`` (the file says so), ``preset`` (a published recipe or derived) or ``default``.
    """

    name: str
    value: Any
    where: str
    source: str


def settings_of(study: StudyConfig, trials: Sequence[PlannedTrial]) -> list[Setting]:
    """Return the settings that ``trials``, the combinations of the study's space, have.

    Args:
        study: The study.
        trials: With their resolved configs.
    """
    given = flatten(nest(study.base)[0])
    every = [flatten(trial.config.model_dump(mode="json")) for trial in trials]
    plain = flatten(trial_from({}, {}).model_dump(mode="json"))
    preset = flatten(resolve(trial_from({}, {})).model_dump(mode="json"))
    settings = []
    for name in dict.fromkeys(name for config in every for name in config):  # some are left out where they are off
        configs = [config for config in every if _has_effect(study, name, config)]
        if name in study.space or not configs:
            continue
        source = "study" if name in given else "preset" if plain.get(name) != preset.get(name) else "default"
        values: dict[str, Any] = {}
        for config in configs:
            values.setdefault(repr(config.get(name)), config.get(name))
        if len(values) == 1:
            settings.append(Setting(name, configs[0][name], "", source))
            continue
        decider = next((other for other in study.space if _decides(other, name, configs)), None)
        for value in values.values():
            cases = {str(config.get(decider)) for config in configs if config.get(name) == value} if decider else set()
            where = f"{decider}={'|'.join(sorted(cases))}" if decider else "as searched"
            settings.append(Setting(name, value, where, "preset" if source == "default" else source))
    return settings


def preset_notes(study: StudyConfig, trials: Sequence[PlannedTrial]) -> list[str]:
    """Return sentences on the preset values in force that are no published row: interpolated, or of another dataset.

    Args:
        study: The study.
        trials: With their resolved configs.
    """
    given = {*flatten(nest(study.base)[0]), *study.space}
    notes: dict[str, None] = {}
    for trial in trials:
        distill = trial.config.distill
        for note in preset_of(trial.config).notes:
            about = note.split()[0]
            late = study.trial == "distill" and about.startswith(tuple(f"{stage}." for stage in AFTER_DISTILL))
            if about not in given and not late:
                notes[f"{distill.backbone}, ipc {distill.ipc}: {note}"] = None
    return list(notes)


def _has_effect(study: StudyConfig, name: str, config: dict[str, Any]) -> bool:
    """Whether a name is of no stage that trials end before, and of no other backbone's or loss's section."""
    part, section, *_ = [*name.split("."), ""]
    if study.trial == "distill" and part in AFTER_DISTILL:
        return False
    experts_label = config.get("labels.source") == "experts"
    if part == "distill" and section in SECTIONS:
        spec = backbone(config["distill.backbone"])
        if section == spec.section:
            return name.removeprefix(f"distill.{section}.") not in spec.unused
        of_experts = name.startswith("distill.mtt.experts.") and not name.endswith(".count")
        return of_experts and (experts_label or spec.takes_experts)
    if part == "labels" and name != "labels.source":
        return experts_label
    if part == "train" and section in LOSS_SECTIONS:
        return section == config["train.loss"] and not (
            name == "train.focal.gamma" and config["train.focal.sample_dependent"]
        )
    return True


def _decides(other: str, name: str, configs: Sequence[dict[str, Any]]) -> bool:
    seen: dict[str, str] = {}
    return all(seen.setdefault(repr(c.get(other)), repr(c.get(name))) == repr(c.get(name)) for c in configs)
