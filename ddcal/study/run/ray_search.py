"""Drivers as a Tune searcher: Tune asks it for trials and tells it results; the drivers alone know Optuna."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayError
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from ddcal.errors import StoreError, cut, one_line
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.in_turn.relay import Relay
from ddcal.study.run.unusable import why_lost
from ddcal.study.run.worker import LostProcess

logger = logging.getLogger(__name__)

ALONE_SECONDS = 10.0
"""How long a lost head waits for a call of a driver to return: opening a study asks Ray, which may not answer."""


class DriverSearcher(Searcher):
    """Hands out the assignments of studies in turn, ``search.concurrency`` at a time.

    Tune snapshots its searcher with pickle; the drivers' own ledgers and journals are the truth, so nothing of them
    goes into a snapshot and a snapshot is never restored.

    Attributes:
        error: What a driver raised (a full disk, an interrupt). Raised inside Tune it would leave actors and
            placement groups behind: it is kept here, `DriverStopper` ends the studies, and whoever ran Tune raises it.
        stop_signal: What every assignment gets as its ``stop_signal``.
    """

    def __init__(self, relay: Relay) -> None:
        """Search for the drivers of ``relay``."""
        super().__init__()
        self._relay = relay
        self._alone = threading.Lock()
        self._handed_out: dict[str, tuple[StudyDriver, int]] = {}
        self.error: BaseException | None = None
        self.stop_signal: str | None = None

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, None while ``concurrency`` trials run, FINISHED after the last."""
        with self._kept_error():
            if self.error is not None:  # the studies are stopping
                return Searcher.FINISHED
            if self._relay.full:
                return None
            driver = self._relay.handing_out()
            if driver is None or self.error is not None:  # a signal may have come while the next study was opened
                return Searcher.FINISHED
            assignment = driver.next_assignment()
            if assignment is None:
                return None
            self._handed_out[trial_id] = driver, assignment.number
            told = {
                "stop_signal": self.stop_signal,
                "resources": {"cpu": driver.study.resources.cpus, "gpu": assignment.gpu},
            }
            return assignment.to_config() | told
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a report between first and last."""
        driver, number = self._handed_out[trial_id]
        with self._kept_error(driver):
            driver.on_result(number, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a trial: its own record, a stop by the scheduler, or a worker lost too often."""
        if error:  # `lost` follows, which knows why
            return
        driver, number = self._handed_out.pop(trial_id)
        if self.error is not None:  # the studies are stopping: the drivers end their trials themselves
            return
        with self._kept_error(driver):
            if result is None:
                driver.on_stopped(number, "killed", "its worker never began; see the log")
            else:
                driver.on_result(number, result)
                driver.on_stopped(number, "pruned")  # a finished trial is no longer running: nothing happens then
            self._relay.settle()

    def lost(self, trial_id: str, error: BaseException | None, *, for_good: bool) -> None:
        """Record that a trial's worker was lost with this error; ``for_good`` if it is not tried again."""
        driver, number = self._handed_out.pop(trial_id) if for_good else self._handed_out[trial_id]
        if self.error is None:
            with self._kept_error(driver):
                unusable = why_lost(error, for_good=for_good)
                if unusable is not None:
                    raise unusable
                if for_good:
                    times = driver.study.resources.retries + 1
                    driver.on_stopped(number, "killed", f"its worker died {times} times; see the log")
                    self._relay.settle()

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger and the journal are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def abandon(self, then: Callable[[StoreError], None] | None) -> Callable[[StoreError], None]:
        """Return what calls ``then`` in another thread, without a call of a driver beside it or after it."""

        def alone(error: StoreError) -> None:
            if then is not None:
                self._alone.acquire(timeout=ALONE_SECONDS)  # for good
                then(error)

        return alone

    @contextmanager
    def _kept_error(self, driver: StudyDriver | None = None) -> Iterator[None]:
        with self._alone:
            try:
                yield
            except BaseException as error:
                self._relay.failed = self._relay.failed or driver
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the studies with ``error`` as soon as the workers have saved their state."""
        self.error = self.error or error
        self._relay.stop()

    def __getstate__(self) -> dict[str, Any]:
        nothing = dict.fromkeys(("_relay", "_alone", "error", "stop_signal"))
        return {"_metric": self._metric, "_mode": self._mode, "_handed_out": {}, **nothing}


class DriverStopper(Stopper):
    """Stops every trial once a driver has raised."""

    def __init__(self, searcher: DriverSearcher) -> None:
        """Watch the drivers of ``searcher``."""
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Leave the single trial alone."""
        return False

    def stop_all(self) -> bool:
        """Whether a driver has raised."""
        return self._searcher.error is not None


class LostWorkers(Callback):
    """Tells the searcher of lost workers with the error, which Tune itself does not."""

    def __init__(self, searcher: DriverSearcher) -> None:
        """Tell ``searcher``."""
        self._searcher = searcher

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell of a trial that is tried again, the user too."""
        self._lost(trial, "another one goes on with it")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell of a trial that was tried as often as it may be, the user too."""
        self._lost(trial, "the trial is given up", for_good=True)

    def _lost(self, trial: Any, then: str, *, for_good: bool = False) -> None:
        error = _error_of(trial)
        self._searcher.lost(trial.trial_id, error, for_good=for_good)
        if self._searcher.error is None:  # that is said otherwise
            logger.warning("%s: its worker has ended: %s; %s", trial.config["trial_key"], why_ended(error), then)


class OwnSignals(Callback):
    """Gives SIGUSR1 back what it did before: Tune takes it as it begins, whatever it is told."""

    def __init__(self) -> None:
        """Note what the signal does now."""
        self._handler = signal.getsignal(signal.SIGUSR1)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks, and never reads them back."""
        return {}

    def setup(
        self,
        stop: Stopper | None = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Take the signal back; called where Tune has begun."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, self._handler)


def why_ended(error: BaseException | None) -> str:
    """Return why a worker has ended, for people.

    Args:
        error: What Ray says of it; None where that is not known.
    """
    if isinstance(error, OutOfMemoryError):
        return "the machine is short of memory, so Ray has killed it; fewer trials at a time need less"
    if error is None or isinstance(error, RayError):
        return "killed or crashed (a machine that is short of memory kills: see `dmesg`)"
    said = cut(one_line(str(error)), 200)
    return said if isinstance(error, LostProcess) else f"{type(error).__name__}: {said}"


def _error_of(trial: Any) -> BaseException | None:
    try:
        with open(trial.pickled_error_file, "rb") as stream:
            error = cloudpickle.load(stream)
    except Exception:  # there is none, or it does not survive being pickled
        return None
    cause = getattr(error, "cause", None)  # of a RayTaskError: what was raised in the worker
    return cause if isinstance(cause, BaseException) else error


class EndedTrialsForgotten(Callback):
    """Frees what Tune keeps of every ended trial: its last result and statistics of each metric, tens of kilobytes.

    The ledger has it all, and Tune's own snapshots, which are never read, become smaller and faster.
    """

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forget the trial's results; its searcher and its scheduler have had them by now."""
        kept = trial.run_metadata
        kept.last_result = {"done": True}  # were it empty, Tune would ask the actor for another one
        kept.metric_analysis, kept.metric_n_steps = {}, {}
