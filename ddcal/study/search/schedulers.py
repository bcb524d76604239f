"""Tune schedulers that stop poor trials inside distillation and inside training, comparing only what is comparable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ddcal.config import StudyConfig
from ddcal.config.backbones import backbone
from ddcal.config.metrics import METRICS, VAL_METRICS
from ddcal.pipeline.advance import span_of
from ddcal.pipeline.stages import STAGES
from ddcal.study.record.events import Event, TrialFinished, TrialPoints, TrialStarted
from ddcal.study.record.ledger import FIDELITY_STEPS, LEDGER, read_ledger
from ddcal.study.search.halving import rungs, survives

STAGE_TIME = "stage_fidelity"
"""The time that inner schedulers see: the finished fraction of the stage, in thousandths."""

WORST = 1e30
"""Stands for a metric that is no number; finite, since schedulers interpolate."""


def make_scheduler(study: StudyConfig, directory: Path) -> TrialScheduler:
    """Return the study's scheduler, which knows what the ledger in ``directory`` has of finished trials."""
    if study.scheduler.name == "none":
        return FIFOScheduler()
    scheduler = StagedScheduler(study)
    if (directory / LEDGER).is_file():
        scheduler.remember(read_ledger(directory))
    return scheduler


@dataclass(eq=False)
class _Past:
    """A trial of an earlier driver, as schedulers see trials."""

    trial_id: str
    config: dict[str, Any]


class StagedScheduler(FIFOScheduler):
    """One scheduler for every stage and kind of training set, so that no rung mixes what cannot be compared.

    Reports of the distill and the train stage go to different schedulers, and within a stage so do distilled sets
    (compared with each other whatever the backbone), random real ones and full data. What they see as time is the
    fraction of the stage. A network that has been trained to the end is never stopped: what is left takes seconds.
    """

    def __init__(self, study: StudyConfig) -> None:
        """Schedule for ``study``."""
        super().__init__()
        self._study = study
        self._inner: dict[tuple[str, str], TrialScheduler] = {}
        self._joined: dict[str, list[TrialScheduler]] = {}
        self._reached: dict[tuple[str, str], float] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Return STOP if the scheduler of the stage that the report is from says so, else CONTINUE."""
        found = self._compared(tune_controller, trial, result)
        if found is None:
            return str(TrialScheduler.CONTINUE)
        inner, seen = found
        return str(inner.on_trial_result(tune_controller, trial, seen))

    def _compared(
        self, tune_controller: Any, trial: Any, result: Mapping[str, Any]
    ) -> tuple[TrialScheduler, dict[str, float]] | None:
        """Return the scheduler that compares a report, with the trial added, and what it sees; None if none does."""
        stage, name = result["stage"], trial.config["trial"]["distill"]["backbone"]
        fraction = self._fraction(stage, result["progress"])
        if fraction is None or fraction <= self._reached.get((trial.trial_id, stage), 0.0):
            return None  # the latter of a worker that died and began again
        self._reached[trial.trial_id, stage] = fraction
        # Scores of sets that are not learned do not grow with the stage, so each backbone is compared with itself.
        kind = (stage, "distilled" if backbone(name).learns else name)
        if kind not in self._inner:
            self._inner[kind] = _inner(self._study)
        inner, joined = self._inner[kind], self._joined.setdefault(trial.trial_id, [])
        if inner not in joined:
            inner.on_trial_add(tune_controller, trial)
            joined.append(inner)
        seen = {name: _number(result.get(name), name) for name in VAL_METRICS}
        return inner, {**seen, STAGE_TIME: fraction * FIDELITY_STEPS}

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> None:
        """Take the trial out of every stage; what it reported stays in the rungs."""
        self.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial out of every stage."""
        self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Take the trial out of every stage."""
        for inner in self._joined.pop(trial.trial_id, ()):
            inner.on_trial_remove(tune_controller, trial)
        for stage in (name for name, one in STAGES.items() if one.points_compared != "none"):
            self._reached.pop((trial.trial_id, stage), None)

    def remember(self, events: Iterable[Event]) -> None:
        """Put the reports of finished trials into the rungs, in their order; unfinished ones will report again.

        Args:
            events: A ledger's.
        """
        everything = list(events)
        finished = {event.number for event in everything if isinstance(event, TrialFinished)}
        trials: dict[int, _Past] = {}
        for event in everything:
            if isinstance(event, TrialStarted) and event.number in finished:
                trials.setdefault(event.number, _Past(f"earlier-{event.number}", {"trial": event.config}))
            if isinstance(event, TrialPoints) and event.number in finished:
                for point in event.points:
                    found = self._compared(None, trials[event.number], point)
                    if found is not None:
                        _put(*found, trials[event.number])
        for trial in trials.values():
            self.on_trial_remove(None, trial)

    def _fraction(self, stage: str, progress: float) -> float | None:
        """Return how much of the stage is done at a point of progress; None where nothing is compared."""
        if stage not in STAGES or STAGES[stage].points_compared == "none":
            return None
        low, high = span_of(stage, self._study.trial)
        fraction = round((progress - low) / (high - low), 6)
        return None if STAGES[stage].points_compared == "all but the last" and fraction >= 1.0 else fraction


class MultiObjectiveHalving(FIFOScheduler):
    """Asynchronous successive halving by non-dominated rank and crowding (`halving`); it only stops."""

    def __init__(self, objectives: Mapping[str, str], grace: float, reduction: float) -> None:
        """Halve by ``objectives`` (metric → min or max), first at the fraction ``grace`` of a stage."""
        super().__init__()
        self._signs = {name: 1.0 if way == "min" else -1.0 for name, way in objectives.items()}
        self._reduction = reduction
        self._rungs = {milestone * FIDELITY_STEPS: dict[str, list[float]]() for milestone in rungs(grace, reduction)}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Record the trial at the highest rung that it has reached, and return STOP if too many are better there."""
        rung = self.record(trial, result)
        stays = rung is None or survives(list(rung.values()), self._reduction)
        return str(TrialScheduler.CONTINUE if stays else TrialScheduler.STOP)

    def record(self, trial: Any, result: Mapping[str, Any]) -> dict[str, list[float]] | None:
        """Put the trial into the highest rung that it has reached and return that; None if it is there already."""
        passed = [milestone for milestone in self._rungs if milestone <= result[STAGE_TIME] + 1e-6]
        if not passed or trial.trial_id in self._rungs[passed[-1]]:
            return None
        rung = self._rungs[passed[-1]]
        values = [sign * result[name] for name, sign in self._signs.items()]
        rung[trial.trial_id] = [math.inf if value >= WORST else value for value in values]
        return rung


def _put(inner: TrialScheduler, seen: dict[str, float], trial: Any) -> None:
    """Enter a report of the past; what was decided then is not worked out again, but by ASHA, which keeps no more."""
    if isinstance(inner, MultiObjectiveHalving):
        inner.record(trial, seen)
    elif isinstance(inner, MedianStoppingRule):  # it would end at a trial that went on, though worse than it knew then
        inner._results[trial].append(seen)
    else:
        controller: Any = None
        inner.on_trial_result(controller, trial, seen)


def _inner(study: StudyConfig) -> TrialScheduler:
    settings = study.scheduler
    if settings.name == "moasha":
        return MultiObjectiveHalving(study.objectives, settings.grace, settings.reduction)
    metric = settings.metric or next(iter(study.objectives))
    mode, grace = METRICS[metric.removeprefix("val/")].better, max(1, round(settings.grace * FIDELITY_STEPS))
    if settings.name == "median":
        never: Any = math.inf  # it would pause trials while there are few to compare with
        return MedianStoppingRule(STAGE_TIME, metric, mode, grace_period=grace, min_time_slice=never)
    return ASHAScheduler(
        STAGE_TIME,
        metric,
        mode,
        max_t=FIDELITY_STEPS,
        grace_period=grace,
        reduction_factor=settings.reduction,
        stop_last_trials=False,  # the end of a stage is not the end of a trial
    )


def _number(value: float | None, name: str) -> float:
    """Return a metric, or the worst there is where it is no finite number."""
    if value is not None and math.isfinite(value):
        return value
    return WORST if METRICS[name.removeprefix("val/")].better == "min" else -WORST
