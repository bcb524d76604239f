"""Letting workers start: a trial that waits for a new worker goes on waiting, although another worker gets free."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler


def let_workers_start(scheduler: TrialScheduler) -> TrialScheduler:
    """Make a scheduler prefer trials that have asked for no worker yet, and return it.

    By itself Tune gives a worker that gets free to the trial that has waited longest, and calls off the worker that is
    starting for that one. A worker takes seconds to import torch: where trials take no longer than that, hardly any
    ever comes up, and a study stays on the node on which it began.
    """
    scheduler.choose_trial_to_run = partial(_choose, set(), scheduler.choose_trial_to_run)  # type: ignore[method-assign]
    return scheduler


def _choose(asked: set[str], otherwise: Callable[[Any], Trial | None], controller: Any) -> Trial | None:
    new = [t for t in controller.get_live_trials() if t.status == Trial.PENDING and t.trial_id not in asked]
    if not new:
        return otherwise(controller)
    first = min(new, key=lambda trial: trial.config["number"])
    asked.add(first.trial_id)
    return first
