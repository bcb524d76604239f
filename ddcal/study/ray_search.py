"""The driver as a Tune searcher: Tune asks it for trials and tells it results; the driver alone knows Optuna."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from ddcal.study.driver import StudyDriver


class DriverSearcher(Searcher):
    """Hands out the driver's assignments, ``search.concurrency`` at a time.

    Tune snapshots its searcher with pickle; the driver's own ledger and journal are the truth, so nothing of it goes
    into a snapshot and a snapshot is never restored.
    """

    def __init__(self, driver: StudyDriver) -> None:
        """Search for ``driver``."""
        super().__init__()
        self._driver = driver
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, None while ``concurrency`` trials run, FINISHED after the last."""
        if self._driver.exhausted:
            return Searcher.FINISHED
        if self._driver.running >= self._driver.study.search.concurrency:
            return None
        assignment = self._driver.next_assignment()
        self._numbers[trial_id] = assignment.number
        resources = self._driver.study.resources
        return assignment.to_config() | {"resources": {"cpu": resources.cpu, "gpu": resources.gpu}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a report between first and last."""
        self._driver.on_result(self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a trial: its own record, a stop by the scheduler, or a worker lost too often."""
        number = self._numbers.pop(trial_id)
        if error or result is None:
            retries = self._driver.study.resources.retries
            self._driver.on_stopped(number, "killed", f"its worker died {retries + 1} times; see the log")
            return
        self._driver.on_result(number, result)
        self._driver.on_stopped(number, "pruned")  # a finished trial is no longer running: nothing happens then

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger and the journal are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {"_metric": self._metric, "_mode": self._mode, "_numbers": dict(self._numbers), "_driver": None}
