"""MLflow as a mirror of the ledger: one parent run a study, one child run a trial.

A thread reads the ledger from where a cursor in the study's folder stands and sends event after event. So MLflow may be
down, slow or refuse at any time: the study does not notice, and the mirror (or ``ddcal sync``) goes on later, in order
and without sending anything twice.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ddcal.config.reading.study_paths import from_folder, with_trial_paths
from ddcal.config.reading.yaml_reader import dump_yaml
from ddcal.config.study import Access
from ddcal.credentials import masked
from ddcal.study.mlflow.client import ARTIFACTS, connect, log_params, one_line, refused
from ddcal.study.mlflow.clock import STUDY as WHOLE
from ddcal.study.mlflow.clock import Clock, clock_at
from ddcal.study.mlflow.cursor import Cursor, one_mirror
from ddcal.study.mlflow.facts import study_facts
from ddcal.study.mlflow.moved import bring_home, strays
from ddcal.study.mlflow.trial_files import (
    MAIN,
    METRICS,
    PERCENT,
    STEP_TAG,
    STEP_WORDS,
    THOUSANDTHS,
    TrialPictures,
    is_metric,
)
from ddcal.study.mlflow.view import TAG, WINNER_TAG, mark_winner, study_view
from ddcal.study.record.accounting import accounting_tags
from ddcal.study.record.events import (
    Event,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import LEDGER, parse_event
from ddcal.study.record.results import WINNER_METRIC
from ddcal.study.record.rights import make_folder

logger = logging.getLogger(__name__)

STATUS = {"complete": "FINISHED", "infeasible": "FINISHED", "pruned": "KILLED", "killed": "KILLED"}
"""Outcome → run status; everything else is FAILED."""

EXPERIMENT_KIND = "custom_model_development"
"""Makes MLflow's UI open the experiment as training runs."""

METRIC_BATCH = 1000
ATTEMPTS = 5
"""How often an event is tried that MLflow refuses for what it is; any other failure is waited out."""

ARTIFACT_ATTEMPTS = 3


class Mirror:
    """Brings MLflow up to the ledger's state, event by event; each is applied exactly once.

    The cursor is written after an event. The first event after a start, or after a failed attempt, may therefore have
    arrived already (in part): what it would create is looked up before. So it is with all that the ledger has where the
    cursor was lost.
    """

    _apply: ClassVar[dict[type[Event], Callable[[Mirror, Any], None]]]
    """Event → the method that brings it to MLflow; it need not know of the others."""

    def __init__(
        self,
        directory: Path,
        uri: str,
        experiment: str,
        artifacts: str | None = None,
        *,
        access: Access = "private",
        rights: int | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            directory: The study's folder.
            uri: Tracking URI, for example ``sqlite:////data/runs/mlflow.db`` or ``http://127.0.0.1:5000``.
            experiment: The experiment's name; created if missing.
            artifacts: Where a new experiment keeps its artifacts, for databases without a server.
            access: Who may enter the folder of all artifacts in the output root, if it is made now.
            rights: Those of a database file, if it is made now; None: as the umask lets.
        """
        self._access, self._rights = access, rights
        self.directory, self.uri, self.experiment, self.artifacts = directory, uri, experiment, artifacts
        self._client: Any = None
        self._files = True
        self._experiment_id = ""
        self._attempts = 0
        self._facts: dict[str, Any] = {}
        self._pictures = TrialPictures(directory)
        self._scales: dict[str, int] = {}
        self.cursor = Cursor.read(directory)
        self._clock: Clock | None = None  # at the cursor; None: not known yet
        self._doubtful_to = 0  # up to this byte of the ledger, MLflow may have events already
        self._doubt()

    @property
    def _doubtful(self) -> bool:
        return self.cursor.offset < self._doubtful_to

    def _doubt(self) -> None:
        """Take it that MLflow may have the next event already; with no cursor for what is there, any event."""
        everything = self.cursor.lost and self.pending > 0
        self._doubtful_to = max(self._doubtful_to, sys.maxsize if everything else self.cursor.offset + 1)

    @property
    def place(self) -> str:
        """The URI for messages: without its password."""
        return masked(self.uri)

    def said(self, error: Exception) -> str:
        """Return what MLflow said, on a line and without the URI's password."""
        return one_line(error, self.uri)

    @property
    def pending(self) -> int:
        """How many bytes of the ledger MLflow does not have yet."""
        try:
            return (self.directory / LEDGER).stat().st_size - self.cursor.offset
        except FileNotFoundError:
            return 0

    def advance(self) -> bool:
        """Apply the next event; False if the ledger has none.

        Raises:
            Exception: whatever MLflow raises; the event stays the next one.
        """
        if self.pending <= 0:
            return False
        with one_mirror(self.directory):
            there = self.cursor if self.cursor.is_as_written(self.directory) else Cursor.read(self.directory)
            if there != self.cursor:  # another mirror was here
                self.cursor, self._clock = there, None
                self._doubt()
            return self._send_line()

    def _send_line(self) -> bool:
        with (self.directory / LEDGER).open("rb") as stream:
            stream.seek(self.cursor.offset)
            line = stream.readline()
        if not line.endswith(b"\n"):
            return False
        event = parse_event(line)
        self._clock = self._clock or clock_at(self.directory, self.cursor.offset)
        try:
            if self._client is None:
                self._connect()
            if type(event) in self._apply:
                self._apply[type(event)](self, event)
        except Exception as error:
            self._doubt()
            self._attempts += 1
            if self._attempts < ATTEMPTS or not refused(error) or not self._alive():
                raise
            logger.warning("MLflow at %s refuses an event, which is left out: %s", self.place, self.said(error))
        self._attempts = 0
        self.cursor.offset += len(line)
        self._clock = self._clock.after(event)
        self.cursor.write(self.directory)
        return True

    def _connect(self) -> None:
        root = self.directory.parent
        bring_home(self.uri, root)
        client = connect(self.uri, self._rights)
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            if self.artifacts is not None and self.artifacts.startswith(f"{(root / ARTIFACTS).as_uri()}/"):
                make_folder(root / ARTIFACTS, self._access)
            tags = {"mlflow.experimentKind": EXPERIMENT_KIND}
            identifier = client.create_experiment(self.experiment, artifact_location=self.artifacts, tags=tags)
        else:
            identifier = found.experiment_id
            if strays(found.artifact_location, root):
                self._files = False
                logger.warning(
                    "MLflow at %s keeps the artifacts of %s in %s, which is not there any more: it takes none",
                    self.place,
                    self.experiment,
                    found.artifact_location,
                )
        self._client, self._experiment_id = client, identifier

    def _alive(self) -> bool:
        """Whether MLflow answers at all: what it refuses then, it will refuse for ever."""
        try:
            self._client.get_experiment(self._experiment_id)
            return True
        except Exception:
            return False

    # One method an event of the ledger

    def _study_started(self, event: StudyStarted) -> None:
        study = event.study
        self._facts = study_facts(self.directory)
        tags = {"ddcal.role": "study", "mlflow.runName": study["name"], "mlflow.note.content": study["description"]}
        self.cursor.parent = self._run(tags, event.time)
        settings = {f"search.{name}": value for name, value in study["search"].items()}
        settings |= {f"objective.{name}": way for name, way in study["objectives"].items()}
        log_params(self._client, self.cursor.parent, settings)
        self._artifact(self.cursor.parent, STUDY)
        self._client.set_experiment_tag(self._experiment_id, TAG, study_view(study, self.cursor.parent))

    def _trial_started(self, event: TrialStarted) -> None:
        number = str(event.number)
        if number in self.cursor.runs:  # handed out again after a crash: the same run goes on
            self._client.update_run(self.cursor.runs[number]["run"], status="RUNNING")
            return
        tags = {
            "ddcal.role": "trial",
            "mlflow.runName": event.trial_key,
            "mlflow.parentRunId": self.cursor.parent or "",
            "ddcal.trial_key": event.trial_key,
            "ddcal.trial_number": number,
            STEP_TAG: STEP_WORDS,
        }
        run = self._run(tags, event.time, look_up=event.attempt > 1)
        log_params(self._client, run, event.values)
        self._log_text(run, "config.yaml", dump_yaml(self._absolute(event.config)))
        self.cursor.runs[number] = {"run": run, "data": event.config["data"]}

    def _trial_points(self, event: TrialPoints) -> None:
        from mlflow.entities import Metric

        run = self.cursor.runs[str(event.number)]["run"]
        named, scale = self._named(), self._scale(run)
        metrics = [
            Metric(name, float(value), event.time, round(point["progress"] * scale))
            for point in event.points
            for name, value in point.items()
            if isinstance(value, float) and name != "progress" and is_metric(name, named)
        ]
        if self._doubtful:
            there = {
                (name, item.step, item.value)
                for name in {metric.key for metric in metrics}
                for item in self._client.get_metric_history(run, name)
                if item.timestamp == event.time  # of this event: two points may share a step
            }
            metrics = [metric for metric in metrics if (metric.key, metric.step, metric.value) not in there]
        for start in range(0, len(metrics), METRIC_BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + METRIC_BATCH])

    def _named(self) -> tuple[str, ...]:
        """Return the metrics that the study asks for."""
        self._facts = self._facts or study_facts(self.directory)
        return (*self._facts["objectives"], *self._facts["constraints"])

    def _scale(self, run: str) -> int:
        """Return what a whole trial is in steps of a run's metrics."""
        if run not in self._scales:
            tags = self._client.get_run(run).data.tags
            self._scales[run] = PERCENT if STEP_TAG in tags else THOUSANDTHS
        return self._scales[run]

    def _trial_finished(self, event: TrialFinished) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

        trial = self.cursor.runs[str(event.number)]
        data = self._absolute({"data": trial["data"]})["data"]
        worked = (self._clock or Clock()).worked_until(event.time, str(event.number))
        tags = {"ddcal.outcome": event.outcome, **accounting_tags(event, worked / 1000)}
        tags |= {f"ddcal.key.{stage}": key for stage, key in event.keys.items()}
        if event.error:
            tags["ddcal.error"] = event.error[:4000]
        self._client.log_batch(trial["run"], tags=[RunTag(name, value) for name, value in tags.items()])
        if event.fingerprint:
            name, root = data["name"], data.get("root")
            dataset = Dataset(name, event.fingerprint[:36], "ddcal", root or name)
            inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
            self._client.log_inputs(trial["run"], inputs)
        if event.metrics:
            self._log_text(trial["run"], METRICS, json.dumps(event.metrics, indent=2, sort_keys=True))
        facts = self._facts = self._facts or study_facts(self.directory)
        for picture in self._pictures.of(event, data, facts["store"], facts["cache"]) if self._files else ():
            self._log_file(trial["run"], picture)
        self._end(trial["run"], STATUS.get(event.outcome, "FAILED"), worked)
        del self.cursor.runs[str(event.number)]

    def _absolute(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Return a trial's config as the ledger has it, with absolute paths."""
        absolute: dict[str, Any] = with_trial_paths(trial, from_folder(self.directory))
        return absolute

    def _study_resumed(self, event: StudyResumed) -> None:
        self._client.update_run(self.cursor.parent, status="RUNNING")
        self._client.set_tag(self.cursor.parent, "mlflow.note.content", event.study["description"])
        self._artifact(self.cursor.parent, STUDY)  # it may have more trials now

    def _study_finished(self, event: StudyFinished) -> None:
        from mlflow.entities import Metric

        for name in ("trials.csv", "pareto.csv", "summary.json"):
            self._artifact(self.cursor.parent, name)
        for picture in sorted((self.directory / "figures").glob("*.png")):
            self._log_file(self.cursor.parent, picture, "figures")
        best = event.best
        if best is not None:
            step = event.finished  # a finished study that is resumed as it is ends at the same step again
            if step not in {m.step for m in self._client.get_metric_history(self.cursor.parent, WINNER_METRIC)}:
                shown = dict.fromkeys((*self._named(), WINNER_METRIC, *(f"test/{name}" for name in MAIN)))
                found = {name: (best.metrics or {}).get(name) for name in shown}
                metrics = [Metric(name, v, event.time, step) for name, v in found.items() if v is not None]
                self._client.log_batch(self.cursor.parent, metrics=metrics)
            self._client.set_tag(self.cursor.parent, WINNER_TAG, best.trial_key)
        self._facts = self._facts or study_facts(self.directory)
        winner = None if best is None else best.trial_key
        mark_winner(self._client, self._experiment_id, self._facts["study_id"], winner)
        self.close_runs("KILLED" if event.interrupted else "FINISHED", event.time)

    def close_runs(self, status: str, end_time: int | None = None) -> None:
        """End the study's run with ``status``, and trials that are unfinished as KILLED; resuming opens them again."""
        if self._client is None:
            self._connect()
        clock = self._clock or clock_at(self.directory, self.cursor.offset)
        time = clock.seen if end_time is None else end_time
        for number, trial in self.cursor.runs.items():
            self._end(trial["run"], "KILLED", clock.worked_until(time, number))
        self._end(self.cursor.parent, status, clock.worked_until(time, WHOLE))

    def _end(self, run: str | None, status: str, worked: int) -> None:
        """End a run such that its duration is how long it was worked on, in milliseconds."""
        began = self._client.get_run(run).info.start_time
        self._client.set_terminated(run, status, end_time=began + worked)

    def _run(self, tags: dict[str, str], start_time: int, look_up: bool = False) -> str:
        """Return a new run with these tags, or the one that an earlier attempt has made."""
        self._facts = self._facts or study_facts(self.directory)
        commit = {"ddcal.git_commit": self._facts["git_commit"]} if self._facts["git_commit"] else {}
        facts = {f"ddcal.{name}": self._facts[name] for name in ("study", "study_id")}
        tags = tags | facts | commit | {"mlflow.source.name": "ddcal"}
        if self._doubtful or look_up:
            wanted = ["ddcal.study_id", "ddcal.role", *(["ddcal.trial_key"] if "ddcal.trial_key" in tags else [])]
            condition = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in wanted)
            found = self._client.search_runs([self._experiment_id], condition, max_results=1)
            if found:
                return str(found[0].info.run_id)
            if "ddcal.trial_key" not in tags:  # nothing of this study is there
                self._doubtful_to = 0
        return str(self._client.create_run(self._experiment_id, start_time=start_time, tags=tags).info.run_id)

    def _artifact(self, run: str | None, name: str) -> None:
        path = self.directory / name
        text = path.read_text() if name == STUDY and _is_own(path) else ""
        if masked(text) == text:
            self._log_file(run, path)
        else:  # the study file of an earlier version, with a password
            self._log_text(run, name, masked(text))

    def _log_text(self, run: str | None, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / name
            path.write_text(text)
            self._log_file(run, path)

    def _log_file(self, run: str | None, path: Path, folder: str | None = None) -> None:
        """Log an artifact; a server that takes runs but no files, however often, is asked no further."""
        if not _is_own(path) or not self._files:
            return
        try:
            self._client.log_artifact(run, str(path), folder)
        except Exception as error:
            if self._attempts + 1 < ARTIFACT_ATTEMPTS or not self._alive():
                raise
            self._files = False
            logger.warning("MLflow at %s takes no artifacts: %s", self.place, self.said(error))


def _is_own(path: Path) -> bool:
    """Whether there is a file, and no link to another: the study's folder may be somebody else's."""
    return path.is_file() and not path.is_symlink()


Mirror._apply = {
    StudyStarted: Mirror._study_started,
    StudyResumed: Mirror._study_resumed,
    StudyFinished: Mirror._study_finished,
    TrialStarted: Mirror._trial_started,
    TrialPoints: Mirror._trial_points,
    TrialFinished: Mirror._trial_finished,
}
