"""What `validate` and `plan` say of a study in which nothing is wrong, but which may not be what was meant."""

from __future__ import annotations

from ddcal.config.presets import ZCA, preset_of
from ddcal.config.space import combinations, trial_of
from ddcal.config.study import StudyConfig

_DECIDING = ("distill.backbone", "distill.family", "distill.ipc", "data.name")


def zca_notes(study: StudyConfig) -> list[str]:
    """Return a sentence for each published row (of MTT) that is with ZCA while the trials that take it are without.

    Args:
        study: Without mistakes. One that searches over ``data.zca`` has no notes.
    """
    if ZCA in study.space:
        return []
    notes: dict[str, None] = {}
    for point in combinations(study, _DECIDING):
        trial = trial_of(study, point)
        if not trial.data.zca and preset_of(trial).values.get(ZCA):
            distill, name = trial.distill, trial.data.name
            row = f"the row of {name} in family {distill.family} is with ZCA"
            notes[
                f"{distill.backbone}, ipc {distill.ipc}: {row}, and data.zca is false: set it to true to follow the row"
            ] = None
    return list(notes)
