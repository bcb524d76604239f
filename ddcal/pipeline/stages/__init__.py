"""The stages of a trial in their order; a new one is its two files (see `ddcal.pipeline.stages.base`) and a line here.

Nothing of torch is imported.
"""

from __future__ import annotations

from ddcal.config import TrialConfig
from ddcal.pipeline.stages.base import Stage
from ddcal.pipeline.stages.calibrate import CALIBRATE
from ddcal.pipeline.stages.distill import DISTILL
from ddcal.pipeline.stages.evaluate import EVALUATE
from ddcal.pipeline.stages.experts import EXPERTS
from ddcal.pipeline.stages.folds import FOLDS
from ddcal.pipeline.stages.labels import LABELS
from ddcal.pipeline.stages.masked import MASKED
from ddcal.pipeline.stages.train import TRAIN

__all__ = ["ENTRIES", "LAST", "STAGES", "Stage", "stages_of"]

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (EXPERTS, DISTILL, LABELS, TRAIN, FOLDS, CALIBRATE, EVALUATE)
}
"""Name → stage, in their order."""

ENTRIES = (*STAGES, MASKED)
"""All kinds of entries that a store has."""

LAST: dict[str, Stage] = {"ddnn": EVALUATE, "distill": DISTILL}
"""What a trial is run for (``trial:`` of a study) → the stage that it ends with."""


def stages_of(config: TrialConfig, target: str = "ddnn") -> list[Stage]:
    """Return the stages that a *resolved* trial has, in their order.

    Args:
        config: The trial.
        target: A key of `LAST`.

    Raises:
        ValueError: if the trial has not the stage that it is to end with.
    """
    last = LAST[target]
    if not last.in_trial(config):
        raise ValueError(
            f"distill.backbone is {config.distill.backbone!r}, which distills nothing: target={target!r} needs another"
        )
    wanted = {last.name, *last.needs(config)}  # experts that label are of no set
    return [stage for stage in STAGES.values() if stage.name in wanted and stage.in_trial(config)]
