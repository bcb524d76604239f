"""MLflow: one parent run a study, one child run a trial. No failure of MLflow reaches the study."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ddcal.config import StudyConfig
from ddcal.study.worker import FIDELITY_STEPS

if TYPE_CHECKING:
    from ddcal.study.results import StudyResults

logger = logging.getLogger(__name__)

STATUS = {"complete": "FINISHED", "infeasible": "FINISHED", "pruned": "KILLED", "killed": "KILLED"}
"""Outcome → run status; everything else is FAILED."""

EXPERIMENT_KIND = "custom_model_development"
"""Makes MLflow's UI open the experiment as training runs."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # within about 10 s; MLflow's own 7 take minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}

BATCH = 100
CLOSE_SECONDS = 60.0


class Tracker:
    """Logs nothing; the base of `MLflowTracker`, and the tracker of ``tracking.uri: none``."""

    def study_started(self, study: StudyConfig, directory: Path, facts: dict[str, Any]) -> None:
        """A study began in ``directory``; ``facts`` are its versions, environment and commit."""

    def trial_started(self, number: int, trial_key: str, values: dict[str, Any], config: dict[str, Any]) -> None:
        """A trial was handed out with the searched ``values`` and its whole ``config``."""

    def trial_points(self, number: int, points: list[dict[str, Any]]) -> None:
        """A trial passed fidelity points; a point that was logged before is left out."""

    def trial_finished(self, number: int, record: dict[str, Any], diagram: Path | None) -> None:
        """A trial ended; ``diagram`` is its reliability diagram."""

    def study_finished(self, results: StudyResults, status: str) -> None:
        """The study ended; returns when everything is logged or a minute has passed."""


class MLflowTracker(Tracker):
    """Logs through ``MlflowClient`` from a thread of its own: a slow or absent server does not slow the study."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None = None) -> None:
        """Begin to connect, in the background.

        Args:
            uri: Tracking URI, for example ``sqlite:////data/runs/mlflow.db`` or ``http://127.0.0.1:5000``.
            experiment: The experiment's name; created if missing.
            artifacts: Where a new experiment keeps its artifacts, for databases without a server.
        """
        self.uri, self.experiment, self.artifacts = uri, experiment, artifacts
        self.parent: str | None = None
        self.failures = 0
        self.lost = False
        self._client: Any = None
        self._experiment_id = ""
        self._study = ""
        self._facts: dict[str, Any] = {}
        self._runs: dict[int, str] = {}
        self._steps: dict[int, set[int]] = {}
        self._configs: dict[int, dict[str, Any]] = {}
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="ddcal-mlflow", daemon=True)
        self._thread.start()
        self._queue.put(self._connect)

    def study_started(self, study: StudyConfig, directory: Path, facts: dict[str, Any]) -> None:
        """Create the parent run."""
        self._study, self._facts = study.name, facts

        def log() -> None:
            tags = self._tags() | {"mlflow.runName": study.name, "mlflow.note.content": study.description}
            self.parent = self._client.create_run(self._experiment_id, tags=tags).info.run_id
            settings = {f"search.{name}": value for name, value in study.search.model_dump(mode="json").items()}
            settings |= {f"objective.{name}": way for name, way in study.objectives.items()}
            self._params(self.parent, settings)
            self._client.log_artifact(self.parent, str(directory / "study.yaml"))

        self._put(log)

    def trial_started(self, number: int, trial_key: str, values: dict[str, Any], config: dict[str, Any]) -> None:
        """Create the child run, with the searched values as params and the whole config as an artifact."""
        self._configs[number] = config
        self._steps[number] = set()

        def log() -> None:
            tags = self._tags() | {
                "mlflow.runName": trial_key,
                "mlflow.parentRunId": self.parent or "",
                "ddcal.trial_key": trial_key,
                "ddcal.trial_number": str(number),
            }
            run_id = self._client.create_run(self._experiment_id, tags=tags).info.run_id
            self._runs[number] = run_id
            self._params(run_id, values)
            self._client.log_text(run_id, yaml.safe_dump(config, sort_keys=False), "config.yaml")

        self._put(log)

    def trial_points(self, number: int, points: list[dict[str, Any]]) -> None:
        """Log each point's metrics once; the step is ``progress`` in thousandths."""
        stamp = int(time.time() * 1000)
        fresh = []
        for point in points:
            step = round(point["progress"] * FIDELITY_STEPS)
            if step not in self._steps[number]:
                self._steps[number].add(step)
                fresh.append((step, point))
        if not fresh:
            return

        def log() -> None:
            from mlflow.entities import Metric

            metrics = [
                Metric(name, float(value), stamp, step)
                for step, point in fresh
                for name, value in point.items()
                if isinstance(value, float) and name != "progress"
            ]
            for start in range(0, len(metrics), 1000):
                self._client.log_batch(self._runs[number], metrics=metrics[start : start + 1000])

        self._put(log)

    def trial_finished(self, number: int, record: dict[str, Any], diagram: Path | None) -> None:
        """Log the outcome, stage keys, the dataset's digest and the diagram, and end the run."""

        def log() -> None:
            run_id = self._runs[number]
            try:
                describe(run_id)
            finally:
                self._client.set_terminated(run_id, STATUS.get(record["outcome"], "FAILED"))

        def describe(run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

            tags = {"ddcal.outcome": record["outcome"], "ddcal.cache_hits": " ".join(record["cache_hits"])}
            tags |= {f"ddcal.key.{stage}": key for stage, key in record["keys"].items()}
            if record["error"]:
                tags["ddcal.error"] = record["error"][:4000]
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            data = self._configs.pop(number)["data"]
            if record["fingerprint"]:
                dataset = Dataset(data["name"], record["fingerprint"][:36], "ddcal", data.get("root") or data["name"])
                inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
                self._client.log_inputs(run_id, inputs)
            if diagram is not None and diagram.is_file():
                self._client.log_artifact(run_id, str(diagram))

        self._put(log)

    def study_finished(self, results: StudyResults, status: str) -> None:
        """Log the tables and the winner's metrics on the parent run, end it, and wait for the queue."""

        def log() -> None:
            try:
                describe()
            finally:
                self._client.set_terminated(self.parent, status)

        def describe() -> None:
            from mlflow.entities import Metric

            for name in ("trials.csv", "pareto.csv", "summary.json"):
                self._client.log_artifact(self.parent, str(results.directory / name))
            if results.best is not None:
                stamp = int(time.time() * 1000)
                best = results.best.metrics or {}
                metrics = [Metric(f"best/{name}", v, stamp, 0) for name, v in best.items() if v is not None]
                self._client.log_batch(self.parent, metrics=metrics)
                self._client.set_tag(self.parent, "ddcal.winner", results.best.trial_key)

        self._put(log)
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("MLflow at %s is too slow: some runs were not logged when the study ended", self.uri)
        elif self.failures and not self.lost:
            logger.warning("%d MLflow calls to %s failed; the ledger has everything", self.failures, self.uri)

    def _put(self, log: Callable[[], None]) -> None:
        self._queue.put(log)

    def _work(self) -> None:
        while (log := self._queue.get()) is not None:
            if self.lost:
                continue
            try:
                log()
            except Exception as error:
                self.failures += 1
                gone = self.uri.startswith("http") and "API request to" in str(error)  # said after its retries
                self.lost = gone or self.parent is None
                end = "the study goes on without tracking" if self.lost else "the study goes on"
                if self.lost or self.failures == 1:
                    logger.warning("MLflow at %s: %s: %s; %s", self.uri, type(error).__name__, error, end)

    def _connect(self) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            self._experiment_id = found.experiment_id
        else:
            self._experiment_id = self._client.create_experiment(
                self.experiment, artifact_location=self.artifacts, tags={"mlflow.experimentKind": EXPERIMENT_KIND}
            )

    def _tags(self) -> dict[str, str]:
        return {
            "ddcal.study": self._study,
            "ddcal.git_commit": self._facts.get("git_commit") or "",
            "mlflow.source.name": "ddcal",
        }

    def _params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(run_id, params=params[start : start + BATCH])


def tracking_uri(study: StudyConfig, root: Path) -> str | None:
    """Return the study's tracking URI: SQLite in the output root unless it names another; None for ``none``."""
    if study.tracking.uri == "none":
        return None
    return study.tracking.uri or f"sqlite:///{root / 'mlflow.db'}"


def make_tracker(study: StudyConfig, root: Path) -> Tracker:
    """Return the tracker of `tracking_uri`, or one that logs nothing."""
    uri = tracking_uri(study, root)
    if uri is None:
        return Tracker()
    experiment = study.tracking.experiment or study.name
    artifacts = None if study.tracking.uri else (root / "mlartifacts" / experiment).as_uri()
    return MLflowTracker(uri, experiment, artifacts)
