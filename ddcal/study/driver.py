"""The driver of a study: hands out assignments and records what comes back; executors decide who runs a trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ddcal.config import StudyConfig, resolve, trial_from
from ddcal.pipeline import Environment
from ddcal.pipeline.trial import CHECKPOINT_SECONDS
from ddcal.study.ledger import Ledger, Outcome
from ddcal.study.provenance import git_commit, package_versions
from ddcal.study.results import STUDY, StudyResults, Trial, load_study
from ddcal.study.search import StudySearch
from ddcal.study.tracking import Tracker
from ddcal.study.worker import Assignment

WRITE_SECONDS = 5.0
"""How often the tables of results are rewritten while a study runs; they are always complete at its end."""


class StudyDriver:
    """One study from its first trial to its summary.

    Order of every change: ledger first, then Optuna, then MLflow. All methods are called from one thread.
    """

    def __init__(
        self,
        study: StudyConfig,
        directory: Path,
        environment: Environment,
        tracker: Tracker,
        *,
        on_finished: Callable[[Trial], None] | None = None,
    ) -> None:
        """Begin the study in ``directory``, which exists and is empty.

        Args:
            study: The study.
            directory: Its folder, absolute.
            environment: Device and threads of every trial.
            tracker: Where runs are logged.
            on_finished: Called after each trial, for progress.
        """
        self.study, self.directory, self.environment, self.tracker = study, directory, environment, tracker
        self._on_finished = on_finished
        self._began = self._written = time.monotonic()
        self._running: dict[int, dict[str, Any]] = {}
        self.handed_out = 0
        store = Path(study.storage.store) if study.storage.store else directory.parent / "store"
        self.store = store.absolute()
        (directory / STUDY).write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
        self.ledger = Ledger(directory)
        facts = {
            "environment": environment.identity(),
            "versions": package_versions(),
            "git_commit": git_commit(),
            "store": str(self.store),
        }
        self.facts = facts
        self.ledger.append("study_started", study=study.model_dump(mode="json"), **facts)
        self.search = StudySearch(study, directory)
        tracker.study_started(study, directory, facts)

    @property
    def running(self) -> int:
        """How many trials are handed out and not finished."""
        return len(self._running)

    @property
    def exhausted(self) -> bool:
        """Whether no further trial will be handed out."""
        hours = self.study.stop.hours
        return self.handed_out >= self.study.search.trials or (
            hours is not None and time.monotonic() - self._began > hours * 3600
        )

    def next_assignment(self) -> Assignment:
        """Return the next trial to run; it is in the ledger before this returns."""
        number, values = self.search.ask()
        trial_key = f"{self.study.name}-{number:04d}"
        self.search.annotate(number, trial_key=trial_key)
        config = resolve(trial_from(self.study.base, values)).model_dump(mode="json")
        if config["data"]["root"] is not None:  # trials run in folders of their own
            config["data"]["root"] = str(Path(config["data"]["root"]).expanduser().absolute())
        log = str(self.directory / "logs" / f"{trial_key}.log")
        self.handed_out += 1
        self._running[number] = {"trial_key": trial_key, "values": values, "config": config}
        self.ledger.append("trial_started", number=number, trial_key=trial_key, values=values, config=config, log=log)
        self.tracker.trial_started(number, trial_key, values, config)
        return Assignment(
            trial=config,
            store=str(self.store),
            number=number,
            trial_key=trial_key,
            log=log,
            device=self.environment.device,
            threads=self.environment.threads,
            target=self.study.trial,
            bundle_cached=self.study.scheduler.name == "none",
            checkpoint_seconds=CHECKPOINT_SECONDS,
        )

    def on_result(self, number: int, result: dict[str, Any]) -> None:
        """Record the points of a report, and the end of the trial if it is its last one."""
        if number in self._running:
            self.tracker.trial_points(number, result["points"])
            for record in result.get("records", ()):
                self._finish(number, record)

    def on_stopped(self, number: int, outcome: Outcome, error: str | None = None) -> None:
        """Record a trial that was ended from outside: pruned by the scheduler, or killed with its worker."""
        if number in self._running:
            empty: dict[str, Any] = {
                "metrics": {},
                "keys": {},
                "cache_hits": [],
                "stage_seconds": {},
                "seconds": None,
                "fingerprint": None,
            }
            self._finish(number, {**empty, "outcome": outcome, "error": error})

    def close(self, interrupted: bool = False) -> StudyResults:
        """End the study: unfinished trials are killed, the tables written, MLflow closed."""
        if interrupted:  # perhaps by this very callback
            self._on_finished = None
        for number in list(self._running):
            self.on_stopped(number, "killed", "the study was stopped")
        self.ledger.append("study_finished", seconds=time.monotonic() - self._began, interrupted=interrupted)
        self.ledger.close()
        results = load_study(self.directory)
        results.write()
        self.tracker.study_finished(results, "KILLED" if interrupted else "FINISHED")
        return results

    def _finish(self, number: int, record: dict[str, Any]) -> None:
        trial = self._running.pop(number)
        record = {name: value for name, value in record.items() if name != "log"}
        metrics = record["metrics"]
        needed = {*self.study.objectives, *(c.metric for c in self.study.parsed_constraints)}
        unusable = sorted(name for name in needed if not math.isfinite(metrics.get(name, math.nan)))
        if record["outcome"] == "complete" and unusable:
            record["outcome"], record["error"] = "failed", f"no finite {', '.join(unusable)} to select on"
        violated = [c for c in self.study.parsed_constraints if c.violation(metrics.get(c.metric, float("nan"))) > 0]
        if record["outcome"] == "complete" and violated:
            record["outcome"] = "infeasible"
            bounds = ", ".join(
                f"{c.metric} {self.study.constraints[c.metric]} (is {metrics[c.metric]:.4f})" for c in violated
            )
            record["error"] = f"violates {bounds}"
        self.ledger.append("trial_finished", number=number, **record)
        self.search.tell(number, record["outcome"], metrics)
        self.tracker.trial_finished(number, record, self._diagram(record))
        if time.monotonic() - self._written > WRITE_SECONDS:
            self._written = time.monotonic()
            load_study(self.directory).write()
        if self._on_finished is not None:
            self._on_finished(
                Trial(number=number, **trial, **{**record, "cache_hits": tuple(record["cache_hits"])}, log=None)
            )

    def _diagram(self, record: dict[str, Any]) -> Path | None:
        key = record["keys"].get("evaluate")
        return self.store / "evaluate" / key / "reliability.png" if key and record["metrics"] else None
