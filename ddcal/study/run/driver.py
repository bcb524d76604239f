"""The driver of a study: hands out assignments and records what comes back; executors decide who runs a trial.

The ledger is the truth. Order of every change: ledger first, then Optuna; MLflow follows the ledger by itself. So a
driver that is killed at any moment leaves a folder from which the next one goes on.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.reading.study_paths import with_trial_paths, within
from ddcal.pipeline import Environment, Store
from ddcal.pipeline.trial import CHECKPOINT_SECONDS
from ddcal.store.leases import Leases, open_leases
from ddcal.study.gpu.fractions import Shares
from ddcal.study.mlflow.client import without_password
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.record.events import (
    GpuMeasured,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialAttemptFailed,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.folder_files import write_study_file
from ddcal.study.record.ledger import Ledger, Outcome, step_of
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.provenance import installed
from ddcal.study.record.recorded import LOGS, portable_study
from ddcal.study.record.references import Reference
from ddcal.study.record.results import StudyResults, Trial, load_study
from ddcal.study.record.study_store import cache_place, study_store
from ddcal.study.remote.copying import Copying
from ddcal.study.run.hold_back import HoldBack
from ddcal.study.run.takeover import attributes_of, search_of, tell_again
from ddcal.study.run.unusable import told_by_worker
from ddcal.study.run.worker import Assignment
from ddcal.study.search.outcomes import judge
from ddcal.study.search.proposals import Proposals, Running
from ddcal.study.search.search import JOURNAL, StudySearch
from ddcal.study.search.stopping import Plateau

logger = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
"""How often, at most, the tables of results are rewritten while a study runs; they are always complete at its end."""

WRITE_SHARE = 0.02
"""The share of the driver's time that rewriting the tables may take, however many trials there are."""

STOP = "stop"
"""The file in the study's folder that tells workers to save their state and stop."""


class StudyDriver:
    """One study from its first trial, or from where it was left, to its summary. All methods belong to one thread."""

    def __init__(
        self,
        study: StudyConfig,
        directory: Path,
        environment: Environment,
        tracking: Tracking,
        lock: DriverLock,
        *,
        earlier: StudyResults | None = None,
        on_finished: Callable[[Trial], None] | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        gpus: float | None = None,
        leases: Callable[[Store], Leases] = open_leases,
        copying: Copying | None = None,
    ) -> None:
        """Begin or resume the study in ``directory``.

        Args:
            study: The study.
            directory: Its folder, absolute; empty if the study begins.
            environment: Device and threads of every trial.
            tracking: Mirrors the ledger to MLflow.
            lock: The lock on the folder, given back at the end.
            earlier: What the ledger of a study to resume says; None begins a new one.
            on_finished: Called after each trial, for progress.
            checkpoint_seconds: How often workers save the state of an unfinished stage, in seconds.
            gpus: How many GPUs the cluster has; None if trials run in this process, one at a time.
            leases: Returns the leases of the study's store.
            copying: Copies the ledger to S3; None for a study that is kept in its folder alone.
        """
        study = without_password(study)  # it is written below
        self.study, self.directory, self.environment, self.tracking = study, directory, environment, tracking
        self._on_finished, self._checkpoint_seconds = on_finished, checkpoint_seconds
        self._lock, self._copying = lock, copying
        self._shares = Shares(study.resources, gpus, earlier.packing if earlier is not None else None)
        self._began = self._written = time.monotonic()
        self._write_every = WRITE_SECONDS
        self._running: dict[int, Running] = {}
        self._waiting: list[Running] = []  # asked for, not handed out
        self._proposals = Proposals(study, environment)
        self.store = study_store(study, directory.parent)
        self._hold_back = HoldBack(self.store, leases(self.store))
        study_id = uuid.uuid4().hex if earlier is None else earlier.started.get("study_id", "")
        self._reference = Reference(self.store, "study", directory, directory.parent, study_id)
        self._portable = within(directory.parent, directory)
        self._here = {"environment": environment.identity(), **installed()}
        written = portable_study(study, directory)
        write_study_file(study, directory)
        if earlier is None:
            for leftover in directory.glob(f"{JOURNAL}*"):  # of a driver killed before the ledger's first line
                leftover.unlink()
        self.ledger = Ledger(directory)
        self.search = StudySearch(study, directory) if earlier is None else search_of(study, directory, earlier.records)
        self._plateau = Plateau(study, directory)
        self.finished, self.session = 0, 1 if earlier is None else earlier.sessions + 1
        if earlier is None:
            place = self._portable(self.store.place)
            self.ledger.append(
                StudyStarted, study=written, study_id=study_id, store=place, paths="folder", **self._here
            )
        else:
            self._take_over(earlier, written)
            self._reference.add(key for trial in earlier.records for key in (trial.keys or {}).values())
        self._reference.write()
        tracking.notify()

    @property
    def running(self) -> int:
        """How many trials are handed out and not finished."""
        return len(self._running)

    @property
    def exhausted(self) -> bool:
        """Whether no further trial will be handed out."""
        return self.ending is not None

    @property
    def ending(self) -> str | None:
        """Why no further trial will be handed out; None while there are more to come."""
        stop, search = self.study.stop, self.study.search
        may_return = any(self._shares.larger(trial) for trial in self._running.values())  # with a larger share of a GPU
        if not self._waiting and not may_return and self.finished + len(self._running) >= search.trials:
            return f"search.trials: all {search.trials} were tried"
        if self._out_of_time:
            return f"stop.hours: {stop.hours:g} hours are over"
        if may_return or any(trial.attempt > 1 for trial in self._waiting):  # begun before: they are finished
            return None
        if self._plateau.reached:
            return f"stop.plateau: nothing improved over {stop.plateau} finished trials in a row"
        return "every point of the space was tried" if self.search.through and not self._waiting else None

    def next_assignment(self) -> Assignment | None:
        """Return the next trial to run, which is in the ledger by then; None if it is better to wait.

        A trial that needs a stage which a running trial, of this study or another, is computing waits for it, while
        others go first. While nothing of this study runs there is one to hand out: nobody might ask again.
        """
        chosen = next((trial for trial in self._open if not self._held_back(trial)), None)
        while chosen is None and self._may_ask:
            trial = self._ask()
            if self._held_back(trial):
                self._waiting.append(trial)
            else:
                chosen = trial
        if chosen is None and (not self._open or self._running):
            return None
        chosen = chosen or self._open[0]
        if chosen in self._waiting:
            self._waiting.remove(chosen)
        return self._hand_out(chosen)

    def on_result(self, number: int, result: dict[str, Any]) -> None:
        """Record the points of a report, each once, and the end of the trial if it is its last one.

        Raises:
            StoreError: if the worker cannot begin or go on, as where a place is full; the trial stays unfinished.
            BadInput: if another driver has gone on with the study.
        """
        trial = self._running.get(number)
        if trial is None:
            return
        if self._copying is not None:
            self._copying.check()
        fresh = [point for point in result["points"] if step_of(point) not in trial.steps]
        if fresh:
            trial.steps.update(map(step_of, fresh))
            self.ledger.append(TrialPoints, sync=False, number=number, points=fresh)
            self.tracking.notify()
        for measured in result.get("gpu", ()):
            if self._shares.learn(trial, measured):
                self.ledger.append(GpuMeasured, number=trial.number, **measured)
        if "unusable" in result:
            raise told_by_worker(result)
        for record in result.get("records", ()):
            self._finish(trial, record)

    def on_stopped(self, number: int, outcome: Outcome, error: str | None = None) -> None:
        """Record a trial that was ended from outside: pruned by the scheduler, or killed with its worker."""
        trial = self._running.get(number)
        if trial is not None:
            empty: dict[str, Any] = {"metrics": {}, "cache_hits": [], "stage_seconds": {}, "fingerprint": None}
            seconds = time.monotonic() - trial.handed_out
            self._finish(trial, {**empty, "keys": trial.keys, "seconds": seconds, "outcome": outcome, "error": error})

    def close(self, interrupted: bool = False, on_end: Callable[[StudyResults], None] | None = None) -> StudyResults:
        """End the driver's work: write the tables, let MLflow catch up, give the lock back.

        Trials that are running now stay unfinished in the ledger: resuming hands them out again.

        Args:
            interrupted: Whether the study stops before its end; what cannot be written then is left out.
            on_end: Called before MLflow takes the study's files; whatever it raises is logged alone.

        Raises:
            BadInput: if another driver has gone on with a study that S3 keeps, seen only now that it has ended here.
        """
        forgiven = suppress(OSError) if interrupted else nullcontext()
        try:
            results = load_study(self.directory)
            best = results.best
            results.seconds = (results.seconds or 0.0) + time.monotonic() - self._began
            results.interrupted, results.ending = interrupted, None if interrupted else self.ending
            with forgiven:
                results.write()  # before the ledger's last line, as MLflow takes the files when it reads that
            if on_end is not None:
                try:
                    on_end(results)
                except Exception as error:
                    logger.warning("at the end of the study: %s: %s", type(error).__name__, error)
            with forgiven:
                self.ledger.append(
                    StudyFinished,
                    seconds=results.seconds,
                    interrupted=interrupted,
                    ending=results.ending,
                    finished=self.finished,
                    best=None if best is None else {"trial_key": best.trial_key, "metrics": best.metrics},
                )
            self.ledger.close()
        finally:  # also if the disk is full
            if self._copying is not None:
                self._copying.finish(hurried=interrupted)  # MLflow is told what S3 has
            unsent = self.tracking.close()
            if self._copying is not None:
                self._copying.close(hurried=interrupted)
            self._lock.release()
        if self._copying is not None and not interrupted:
            self._copying.check()
        results.unsent, results.uncopied = unsent, None if self._copying is None else self._copying.missing
        return results

    # Asking and handing out

    @property
    def _open(self) -> list[Running]:
        """Those that wait and may begin: once the plateau is reached, only what was begun before."""
        return [trial for trial in self._waiting if trial.attempt > 1 or not self._plateau.reached]

    @property
    def _may_ask(self) -> bool:
        asked = self.finished + len(self._running) + len(self._waiting)
        held_back = len(self._waiting) >= self.search.ahead
        over = self._plateau.reached or self.search.through
        return asked < self.study.search.trials and not held_back and not over

    @property
    def _out_of_time(self) -> bool:
        hours = self.study.stop.hours
        return hours is not None and time.monotonic() - self._began > hours * 3600

    def _ask(self) -> Running:
        return self._proposals.make(*self.search.ask())

    # Shares of a GPU

    def _held_back(self, trial: Running) -> bool:
        if self._shares.automatic:
            trial.missing = self._hold_back.missing(trial.keys)
        others = self._running.values()  # one may be computing the first stage that this one would compute
        return self._hold_back.blocked(trial.keys, (o.keys for o in others)) or self._shares.must_wait(trial, others)

    def _grow(self, trial: Running, record: dict[str, Any], larger: float) -> None:
        """Let the trial wait for another attempt with more memory; it keeps its number, its key and its points."""
        del self._running[trial.number]
        self.ledger.append(
            TrialAttemptFailed,
            number=trial.number,
            attempt=trial.attempt,
            outcome=record["outcome"],
            error=record["error"],
            seconds=record["seconds"],
            gpu=trial.gpu,
            next_gpu=larger,
        )
        trial.attempt, trial.gpu, trial.grown = trial.attempt + 1, larger, True
        self._waiting.insert(0, trial)

    def _hand_out(self, trial: Running) -> Assignment:
        trial.handed_out = time.monotonic()
        trial.gpu = self._shares.give(trial)
        self._running[trial.number] = trial
        log = f"{LOGS}/{trial.trial_key}.log"
        self._reference.add(trial.keys.values())
        self._reference.write()
        self.ledger.append(
            TrialStarted,
            number=trial.number,
            trial_key=trial.trial_key,
            values=trial.values,
            config=with_trial_paths(trial.config, self._portable),
            keys=trial.keys,
            duplicate_of=trial.duplicate_of,
            attempt=trial.attempt,
            gpu=trial.gpu,
            log=log,
        )
        self.tracking.notify()
        return Assignment(
            trial=trial.config,
            store=self.store.place,
            cache=cache_place(self.study),
            number=trial.number,
            trial_key=trial.trial_key,
            log=str(self.directory / log),
            device=self.environment.device,
            threads=self.environment.threads,
            precision=self.environment.precision,
            compile=self.environment.compile,
            target=self.study.trial,
            bundle_cached=self.study.scheduler.name == "none",
            checkpoint_seconds=self._checkpoint_seconds,
            attempt=trial.attempt,
            gpu=trial.gpu,
            context=self._shares.packing.context,
            stop=None if self._shares.gpus is None else str(self.directory / STOP),
            access=self.study.storage.access,
        )

    def _take_over(self, earlier: StudyResults, written: dict[str, Any]) -> None:
        """Go on from the ledger: finished trials count, the others wait to be handed out again."""
        self.ledger.append(StudyResumed, study=written, paths="folder", **self._here)
        in_ledger = {trial.number: trial for trial in earlier.records}
        for trial in earlier.records:
            self._proposals.note(trial.number, trial.values)
            if trial.outcome is not None:
                self.finished += 1
        for number, values in self.search.unfinished({trial.number: trial.values for trial in earlier.records}):
            record = in_ledger.get(number)
            if record is not None and record.outcome is not None:
                tell_again(self.search, record)
                continue
            waiting = self._proposals.make(number, record.values if record is not None else values)
            if record is not None:
                waiting.steps, waiting.attempt = set(record.steps), record.attempt + 1
                waiting.gpu, waiting.grown = record.gpu, record.grown
            self._waiting.append(waiting)
        # Trials that were never handed out come last, and not at all if the study was shortened to less than them.
        self._waiting.sort(key=lambda trial: trial.number not in in_ledger)
        del self._waiting[max(0, self.study.search.trials - self.finished) :]

    # The end of a trial

    def _finish(self, trial: Running, record: dict[str, Any]) -> None:
        larger = self._shares.larger(trial)
        if record["outcome"] == "out_of_memory" and larger is not None:
            self._grow(trial, record, larger)
            return
        del self._running[trial.number]
        self._hold_back.forget(trial.keys.values())
        self.finished += 1
        self._reference.add(record["keys"].values())  # of the worker, which has computed them
        self._reference.write(needed=False)
        self._proposals.compare(trial, record)
        record = {name: value for name, value in record.items() if name != "log"}
        metrics = record["metrics"]
        outcome, reason = judge(self.study, record["outcome"], metrics)
        if reason is not None:
            record |= {"outcome": outcome, "error": reason}
        self.ledger.append(TrialFinished, number=trial.number, **record)
        self.search.tell(trial.number, outcome, metrics, attributes_of(trial, outcome, record["keys"]))
        self._plateau.add(outcome, metrics)
        self.tracking.notify()
        if time.monotonic() - self._written > self._write_every:
            began = time.monotonic()
            load_study(self.directory).write()
            self._written = time.monotonic()
            self._write_every = max(WRITE_SECONDS, (self._written - began) / WRITE_SHARE)
        if self._on_finished is not None:
            facts: dict[str, Any] = {"number": trial.number, "trial_key": trial.trial_key, "values": trial.values}
            facts |= record | {"cache_hits": tuple(record["cache_hits"]), "duplicate_of": trial.duplicate_of}
            self._on_finished(Trial(config_values=trial.config, **facts))
