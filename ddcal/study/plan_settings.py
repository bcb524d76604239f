"""The resolved values of a study's base: what is fixed, and where a preset depends on what is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddcal.config import StudyConfig, resolve, trial_from
from ddcal.config.names import nest
from ddcal.config.trial import flatten
from ddcal.study.plan_stages import PlannedTrial


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
    configs = [flatten(trial.config.model_dump(mode="json")) for trial in trials]
    plain = flatten(trial_from({}, {}).model_dump(mode="json"))
    preset = flatten(resolve(trial_from({}, {})).model_dump(mode="json"))
    settings = []
    for name in configs[0]:
        if name in study.space:
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


def _decides(other: str, name: str, configs: Sequence[dict[str, Any]]) -> bool:
    seen: dict[str, str] = {}
    return all(seen.setdefault(repr(c.get(other)), repr(c.get(name))) == repr(c.get(name)) for c in configs)
