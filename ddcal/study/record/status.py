"""How far a study is, from its folder alone: while it runs, on whatever machine, and after a crash.

`ddcal status`, the display of `ddcal run` and `ddcal watch` all show this.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ddcal.config.space import finite, grid_size
from ddcal.pipeline.advance import stage_at, stage_share
from ddcal.pipeline.durations import duration
from ddcal.pipeline.heartbeat import MAX_BYTES, Heartbeat, heartbeat_file
from ddcal.store.lock_holder import MAX_TEXT, Holder
from ddcal.study.mlflow.client import tracking_uri
from ddcal.study.mlflow.cursor import Cursor
from ddcal.study.record.chance import chance_warning
from ddcal.study.record.events import Event, TrialAttemptFailed, TrialFinished, TrialStarted
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import LOCK, job_of
from ddcal.study.record.recorded import LOGS
from ddcal.study.record.results import WINNER_METRIC, StudyResults, Trial, load_study
from ddcal.untrusted import read_bytes

MAX_NAMED = 4
"""Of so many running trials a line says what they are at."""

UNFINISHED = "unfinished"
"""What `Status.outcomes` counts of trials that were handed out and have not ended."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker has.

    Attributes:
        trial_key: Its name.
        stage: The stage that it is in; None if that is not known.
        stage_progress: The share of the stage that is done, in [0, 1].
        progress: The share of the trial that is done, in [0, 1].
        seconds: How long the worker has had it.
        waiting: Whether it waits for another process that computes the stage.
        gpu: Its share of a GPU; 0 on the CPU.
    """

    trial_key: str
    stage: str | None
    stage_progress: float
    progress: float
    seconds: float
    waiting: bool
    gpu: float


@dataclass(frozen=True)
class Status:
    """A study's progress.

    Attributes:
        study: Its name.
        state: ``running``, ``finished``, ``stopped`` (by its driver) or ``dead`` (its driver was killed).
        trials: How many it is to have.
        finished: How many have ended.
        outcomes: Outcome → count; ``unfinished`` for those handed out.
        best: The trial key of the present winner.
        best_metrics: Its objectives, and the metric that decides between members of the front.
        trials_an_hour: Over the last session; None before the second trial has ended.
        seconds_left: At that rate; None where nothing is left or nothing known.
        running: The trials that workers have; none of a study that does not run.
        cpus: How many CPUs these have asked for.
        gpus: How many GPUs these have, shares added up.
        unsent: How many events of the ledger MLflow does not have yet; None of a study that is not tracked.
        ending: Why it ended, in words; None if it has not.
        quiet_seconds: How long ago its ledger has grown for the last time.
        next_command: What to do next, if the study does not run.
        warning: That the winner's accuracy cannot be told from chance, in a sentence; None where it can.
        job: The SLURM job or the pod of its driver and what is said of it: ``12 RUNNING``,
            ``pod NAME Running``; None in neither.
        points: How many points its space has; None where they cannot be counted.
        decides: The metric by which the winner is chosen: of the front's members, or its one objective.
    """

    study: str
    state: str
    trials: int
    finished: int
    outcomes: dict[str, int]
    best: str | None
    best_metrics: dict[str, float | None]
    trials_an_hour: float | None
    seconds_left: float | None
    running: list[RunningTrial]
    cpus: float
    gpus: float
    unsent: int | None
    ending: str | None
    quiet_seconds: float
    next_command: str | None
    warning: str | None = None
    job: str | None = None
    points: int | None = None
    decides: str = WINNER_METRIC

    @property
    def through(self) -> bool:
        """Whether no driver would run another trial of it, unless it is extended."""
        at_its_end = self.ending is not None and self.ending.startswith(("stop.plateau", "every point"))
        return self.state == "finished" and (self.finished >= self.trials or at_its_end)


def study_status(directory: Path | str, results: StudyResults | None = None) -> Status:
    """Read a study's ledger, its driver's lock, its workers' heartbeats, and where MLflow stands.

    Args:
        directory: The study's folder.
        results: What its ledger says, if that has just been read.

    Raises:
        BadInput: if the folder is not a study's.
    """
    results = results or load_study(directory)
    study, session = results.study, results.session
    ends = [event.time for event in session if isinstance(event, TrialFinished)]
    finished = sum(trial.outcome is not None for trial in results.records)
    began = session[0].time
    rate = len(ends) / ((ends[-1] - began) / 3.6e6) if len(ends) > 1 and ends[-1] > began else None
    points = grid_size(study) if finite(study) and study.space else None
    left = min(study.search.trials, points or study.search.trials) - finished
    state = study_state(results.directory, results.interrupted)
    names = dict.fromkeys((*study.objectives, WINNER_METRIC))
    best, now = results.best, time.time()
    running = _running(results, session, now) if state == "running" else []
    return Status(
        study=study.name,
        state=state,
        trials=study.search.trials,
        finished=finished,
        outcomes=dict(Counter(trial.outcome or UNFINISHED for trial in results.records)),
        best=None if best is None else best.trial_key,
        best_metrics={} if best is None else {name: (best.metrics or {}).get(name) for name in names},
        trials_an_hour=rate,
        seconds_left=left / rate * 3600 if rate and left > 0 and state == "running" else None,
        running=running,
        cpus=len(running) * study.resources.cpus,
        gpus=sum(trial.gpu for trial in running),
        unsent=_unsent(results),
        ending=results.ending,
        quiet_seconds=max(0.0, now - session[-1].time / 1e3),
        next_command=f"ddcal resume {shlex.quote(str(directory))}" if state in ("stopped", "dead") else None,
        warning=None if best is None else chance_warning(best),
        job=driver_job(results.directory),
        points=points,
        decides=WINNER_METRIC if len(study.objectives) > 1 else next(iter(study.objectives)),
    )


def study_state(directory: Path, interrupted: bool) -> str:
    """Return ``running``, ``finished``, ``stopped`` or ``dead``, from the lock on a study's folder.

    SLURM or Kubernetes is asked about a driver of another machine that was in a job or a pod, and may say it is dead.
    """
    try:
        content = read_bytes(directory / LOCK, MAX_TEXT)
        holder, job = Holder.parse(content), job_of(content)
    except FileNotFoundError:
        return "stopped" if interrupted else "finished"
    except (ValueError, OSError):
        return "dead"
    return "dead" if holder.dead or (holder.elsewhere and job is not None and job.ended) else "running"


def write_tables(results: StudyResults) -> None:
    """Write the tables of a study that nobody works on: of one that runs, its driver writes them."""
    if study_state(results.directory, results.interrupted) != "running":
        results.write()


def driver_job(directory: Path) -> str | None:
    """Return the SLURM job or the pod of a study's driver and what is said of it; None in neither."""
    with contextlib.suppress(ValueError, OSError):
        job = job_of(read_bytes(directory / LOCK, MAX_TEXT))
        return None if job is None else job.status
    return None


def _running(results: StudyResults, session: list[Event], now: float) -> list[RunningTrial]:
    """Return the trials that were handed out in the last session and have not come back."""
    handed_out: dict[int, int] = {}
    for event in session:
        if isinstance(event, TrialStarted):
            handed_out[event.number] = event.time
        elif isinstance(event, TrialFinished | TrialAttemptFailed):
            handed_out.pop(event.number, None)
    trials = {trial.number: trial for trial in results.records}
    return [_at(trials[number], results, max(0.0, now - began / 1e3)) for number, began in handed_out.items()]


def _at(trial: Trial, results: StudyResults, seconds: float) -> RunningTrial:
    target, keys = results.study.trial, trial.keys or {}
    log = results.directory / LOGS / Path(trial.log or f"{trial.trial_key}.log").name
    heartbeat = read_heartbeat(log, trial.attempt)
    progress, waiting = trial.progress, False
    stage = stage_at(progress, keys, target) if trial.steps else None  # its worker may not have begun
    share = 0.0 if stage is None else stage_share(stage, progress, target)
    if heartbeat is not None and heartbeat.progress >= progress:
        stage, share, progress, waiting = heartbeat.stage, heartbeat.fraction, heartbeat.progress, heartbeat.waiting
        following = [*keys][[*keys].index(stage) + 1 :] if stage in keys else []
        if share >= 1.0 and following:
            stage, share = following[0], 0.0
    return RunningTrial(trial.trial_key, stage, share, progress, seconds, waiting, trial.gpu)


def read_heartbeat(log: Path, attempt: int) -> Heartbeat | None:
    """Return what the worker of a trial's ``attempt`` is at, by its log; None where it has not said so."""
    try:
        found = Heartbeat.model_validate_json(read_bytes(heartbeat_file(log), MAX_BYTES))
    except (OSError, ValueError):
        return None
    return found if found.attempt == attempt else None


def _unsent(results: StudyResults) -> int | None:
    """Return how many lines of the ledger lie behind the place where MLflow stands."""
    if tracking_uri(results.study, results.directory.parent) is None:
        return None
    offset = Cursor.read(results.directory).offset
    with contextlib.suppress(OSError), (results.directory / LEDGER).open("rb") as stream:
        stream.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
    return 0


# In words


def finished_words(status: Status) -> str:
    """Return how many trials have ended, and how: ``5 of 20 trials finished (4 complete, 1 failed), 2 running``."""
    ended = {outcome: count for outcome, count in sorted(status.outcomes.items()) if outcome != UNFINISHED}
    outcomes = f" ({', '.join(f'{count} {outcome}' for outcome, count in ended.items())})" if ended else ""
    running = f", {len(status.running)} running" if status.running else ""
    waiting = status.outcomes.get(UNFINISHED, 0) - len(status.running)
    return f"{status.finished} of {status.trials} trials finished{outcomes}{running}" + (
        f", {waiting} unfinished" if waiting > 0 else ""
    )


def left_words(status: Status) -> str:
    """Return the rate and about how long the rest takes; empty if neither is known."""
    if status.trials_an_hour is None:
        return ""
    left = "" if status.seconds_left is None else f", about {duration(status.seconds_left)} left"
    return f"{status.trials_an_hour:.0f} trials an hour{left}"


def best_words(status: Status) -> list[tuple[str, str]]:
    """Return the present winner and its metrics, the one that decides marked; empty while there is none."""
    if status.best is None:
        return []
    metrics = {name: "–" if value is None else f"{value:.4f}" for name, value in status.best_metrics.items()}
    decides = {name: " (decides)" if name == status.decides else "" for name in metrics}
    return [("", status.best), *((name, f"{shown}{decides[name]}") for name, shown in metrics.items())]


def at_words(trial: RunningTrial) -> str:
    """Return what a running trial is at: ``train 40 %, 12 s``."""
    if trial.waiting:
        at = f"waits for {trial.stage}, which another process computes"
    else:
        at = "begins" if trial.stage is None else f"{trial.stage} {trial.stage_progress:.0%}".replace("%", " %")
    return f"{at}, {duration(trial.seconds)}"


def best_label(status: Status) -> str:
    """Return what the best trial is called: of a study with trials left the best so far."""
    return "best" if status.through else "best so far"


def status_line(status: Status) -> str:
    """Return how far a study is, on a line: for a log."""
    best = "  ".join(f"{name} {shown}".strip() for name, shown in best_words(status))
    running = ", ".join(f"{trial.trial_key} {at_words(trial)}" for trial in status.running[:MAX_NAMED])
    more = len(status.running) - MAX_NAMED
    parts = (
        finished_words(status),
        left_words(status),
        f"{best_label(status)} {best}" if best else "",
        f"running: {running}{f' and {more} more' if more > 0 else ''}" if running else "",
        f"MLflow lacks the last {status.unsent} events" if status.unsent else "",
    )
    return f"{status.study}: {'; '.join(part for part in parts if part)}"
