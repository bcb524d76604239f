"""Results of a study from its ledger: the table of trials, the Pareto front, the winner, and their files."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddcal.config import StudyConfig, TrialConfig
from ddcal.config.base import RECORDED
from ddcal.config.reading.study_paths import from_folder, with_trial_paths
from ddcal.errors import BadInput
from ddcal.pipeline.stages import STAGES
from ddcal.study.gpu.packing import Packing, memory_groups
from ddcal.study.record.accounting import saved
from ddcal.study.record.chance import chance_facts
from ddcal.study.record.confirmation import usable_confirmation
from ddcal.study.record.events import (
    CountedImages,
    Event,
    GpuMeasured,
    LedgerRepaired,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialAttemptFailed,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.folder_files import replace_text, write_csv
from ddcal.study.record.ledger import LEDGER, no_study, not_begun, not_one, read_ledger, step_of
from ddcal.study.record.recorded import as_begun, log_of, recorded_store, recorded_study, with_password, worked_before
from ddcal.study.record.shown import ShownStudy, ShownTrial

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)

TRIALS, PARETO, SUMMARY = "trials.csv", "pareto.csv", "summary.json"
WINNER_METRIC = "val/nll"
COMPUTED = ("environment", "versions", "git_commit")
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What making sense of damaged JSON may raise."""


@dataclass(frozen=True, repr=False)
class Trial(ShownTrial):
    """One trial as the ledger tells it; ``outcome`` is None while it is unfinished.

    ``metrics`` of a trial that did not come to its end are those of its last point, at ``progress``. ``gpu`` is its
    share of a GPU, ``grown`` after it had run out of memory at a smaller one. ``config_values`` is its config as the
    ledger has it; use `config`. ``computed`` has environment, versions and git commit of the session in which it ran,
    ``home`` its study's folder and the place of its store.
    """

    number: int
    trial_key: str
    values: dict[str, Any]
    config_values: dict[str, Any]
    outcome: str | None = None
    metrics: dict[str, float] | None = None
    keys: dict[str, str] | None = None
    cache_hits: tuple[str, ...] = ()
    stage_seconds: dict[str, float] | None = None
    stage_gpus: dict[str, float] | None = None
    waited_seconds: float = 0.0
    seconds: float | None = None
    node: str | None = None
    error: str | None = None
    log: str | None = None
    fingerprint: str | None = None
    tested_on: CountedImages | None = None
    duplicate_of: int | None = None
    attempt: int = 1
    gpu: float = 0.0
    grown: bool = False
    progress: float = 0.0
    steps: tuple[int, ...] = ()
    computed: dict[str, Any] = field(default_factory=dict, compare=False)
    home: tuple[Path, str] | None = field(default=None, compare=False)

    @cached_property
    def config(self) -> TrialConfig:
        """The trial's config, with defaults for settings that its ledger is too old to have; checked when asked for.

        Raises:
            DamagedLedger: if what the ledger has is not a config.
            NewerLedger: if it is one of another version of ddcal.
        """
        try:
            return TrialConfig.model_validate(self.config_values, context={RECORDED: True})
        except UNREADABLE as error:
            versions = self.computed.get("versions", {})
            raise not_one(f"{LEDGER}: the config of {self.trial_key}", error, versions) from error

    @property
    def saved_seconds(self) -> float:
        """Seconds of computing that the store saved this trial."""
        return saved(self.cache_hits, self.stage_seconds, self.stage_gpus)[0]

    @property
    def saved_gpu_seconds(self) -> float:
        """GPU-seconds that the store saved this trial: seconds × the share of a GPU that computing took."""
        return saved(self.cache_hits, self.stage_seconds, self.stage_gpus)[1]


class StudyResults(ShownStudy):
    """A study's folder, read from its ledger.

    Attributes:
        directory: The study's folder.
        study: Its config.
        records: Every trial that was started, by number.
        seconds: How long drivers have worked on it, None before the first has ended.
        interrupted: Whether it was left unfinished by the last driver, or is being worked on.
        sessions: How many drivers have worked on it: one, and one for every time it was resumed.
        session: The events of the last one, oldest first.
        ending: Why it ended, in words; None if it was interrupted or is being worked on.
        repaired: What damaged lines held that were taken out of the ledger.
        store: Where its artefact store lies now: an absolute folder or a URL.
        unsent: Bytes of the ledger that MLflow did not have when the study ended; `ddcal sync` sends them.
        uncopied: What S3 did not have when the study ended, in a sentence; None if all, or nothing is to be there.
    """

    def __init__(self, directory: Path | str) -> None:
        """Read the ledger.

        Raises:
            BadInput: if the folder is not a study's, or its ledger is damaged.
        """
        self.directory = Path(directory).absolute()
        if not (self.directory / LEDGER).is_file():
            raise no_study(directory)
        self.records: list[Trial] = []
        self.started: dict[str, Any] = {}
        self.seconds: float | None = None
        self.interrupted = True
        self.ending: str | None = None
        self.sessions = 1
        self.session: list[Event] = []
        self.unsent = 0
        self.uncopied: str | None = None
        self.store = ""
        self.repaired: list[str] = []
        self.gpu_measured: list[tuple[dict[str, Any], dict[str, Any]]] = []  # the trial's config, what was measured
        trials: dict[int, dict[str, Any]] = {}
        last: dict[int, dict[str, Any]] = {}
        for event in read_ledger(self.directory):
            if isinstance(event, StudyStarted | StudyResumed):
                self.seconds, self.session = worked_before(self.seconds, self.session), []
            self.session.append(event)
            match event:
                case StudyStarted():
                    self.started = _values(event) | {"study": recorded_study(event, self.directory)}
                    self.store = recorded_store(event, self.directory) or ""
                case StudyResumed():
                    study = with_password(recorded_study(event, self.directory), self.started["study"])
                    self.started |= _values(event) | {"study": study}
                    self.store = recorded_store(event, self.directory) or self.store
                    self.interrupted, self.ending = True, None
                    self.sessions += 1
                case TrialStarted(number=number):
                    before = trials.get(number, {})
                    kept = {name: before[name] for name in ("grown", "progress") if name in before}
                    trials[number] = _values(event) | kept | {"steps": [*before.get("steps", ())]}
                    config = trials[number].pop("config")
                    trials[number]["config_values"] = with_trial_paths(config, from_folder(self.directory))
                    trials[number]["computed"] = {name: self.started.get(name) for name in COMPUTED}
                    trials[number]["log"] = log_of(event.log)
                case TrialPoints(number=number, points=points):
                    trials[number]["steps"] += map(step_of, points)
                    last[number] = points[-1]
                    trials[number]["progress"] = points[-1]["progress"]
                case GpuMeasured(number=number):
                    measured = {"total": event.total, "context": event.context, "peaks": event.peaks}
                    self.gpu_measured.append((trials[number]["config_values"], measured))
                case TrialAttemptFailed(number=number):
                    trials[number] |= {"gpu": event.next_gpu, "grown": True}
                case TrialFinished(number=number):
                    ended = _values(event)
                    ended.pop("diagram", None)
                    if not event.metrics and event.outcome != "complete":
                        ended["metrics"] = _val_metrics(last.get(number, {}))
                    trials[number] |= ended | {"cache_hits": tuple(event.cache_hits), "steps": ()}
                case StudyFinished():
                    self.seconds, self.interrupted, self.ending = event.seconds, event.interrupted, event.ending
                case LedgerRepaired():
                    self.repaired += event.lost
                    self.interrupted, self.ending = True, None  # what was lost is to be run again
        if not self.started:
            raise not_begun(directory)
        try:
            if self.started.get("paths") is None and trials:
                self.started["study"] = as_begun(self.started["study"], next(iter(trials.values()))["config_values"])
            self.study = StudyConfig.model_validate(self.started["study"])
            if self.study.storage.store is not None:  # of an earlier version it may be relative to who knows what
                storage = self.study.storage.model_copy(update={"store": self.store})
                self.study = self.study.model_copy(update={"storage": storage})
        except UNREADABLE as error:
            raise not_one(f"{self.directory / LEDGER}: the study", error) from error
        home = (self.directory, self.store)
        self.records = [Trial(**trials[number], home=home) for number in sorted(trials)]

    @property
    def trials(self) -> pandas.DataFrame:
        """One row a trial: outcome, searched values, metrics, stage keys, cache hits, seconds, log (as trials.csv)."""
        import pandas

        return pandas.DataFrame(trial_rows(self.study, self.records))

    @property
    def pareto(self) -> list[Trial]:
        """The feasible trials that no other feasible trial beats in every objective."""
        return pareto_front(self.study, self.records)

    @property
    def best(self) -> Trial | None:
        """The default winner: the Pareto member with the lowest ``val/nll``; None if there is none (`no_winner`)."""
        front = [] if self.confirms is not None else self.pareto
        return min(front, key=lambda trial: (_metric(trial, WINNER_METRIC), trial.number)) if front else None

    @property
    def no_winner(self) -> str:
        """Why `best` is None, where it is: a sentence."""
        if self.confirms is not None:
            return f"the leaders of {self.confirms} on fresh seeds: they are judged there, and none is a winner here"
        return "no trial is feasible: there is no winner"

    @property
    def confirms(self) -> str | None:
        """The study whose leaders this one runs on fresh seeds (`ddcal confirm`); None for every other study."""
        study = self.study
        earlier = re.fullmatch(r"\d+ leaders? of (.+) on \d+ fresh seeds\.", study.description)  # that was all it said
        if study.confirms is None and earlier is not None and study.name == f"{earlier[1]}-confirm":
            return earlier[1]
        return study.confirms

    @property
    def completed(self) -> bool:
        """Whether at least one trial ran to its end, feasible or not."""
        return any(trial.outcome in ("complete", "infeasible", "pruned") for trial in self.records)

    def trial(self, identifier: str) -> Trial:
        """Return a trial by number or trial key.

        Raises:
            BadInput: if there is none.
        """
        for trial in self.records:
            if identifier in (str(trial.number), trial.trial_key):
                return trial
        raise BadInput(f"{self.directory.name} has no trial {identifier!r}; it has 0 to {len(self.records) - 1}")

    def confirmed(self, trial: Trial) -> list[dict[str, Any]] | Literal[False]:
        """Return what `ddcal confirm` measured for a trial on fresh seeds, a record a metric; False if it did not."""
        return [one for one in self.confirmation if one["trial_key"] == trial.trial_key] or False

    @property
    def confirmation(self) -> list[dict[str, Any]]:
        """What `ddcal confirm` measured for the leaders of that time, a record a leader and metric; empty without."""
        return usable_confirmation(self.directory)

    @property
    def packing(self) -> Packing:
        """What the study's trials have measured of their GPUs' memory; those of another ddcal tell nothing."""
        packing = Packing()
        for values, measured in self.gpu_measured:
            with suppress(*UNREADABLE):
                config = TrialConfig.model_validate(values, context={RECORDED: True})
                packing.learn(memory_groups(config, measured["peaks"]), measured)
        return packing

    def summary(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        best = self.best
        finished = [trial for trial in self.records if trial.outcome]
        return {
            "study": self.study.name,
            "outcomes": dict(Counter(trial.outcome or "unfinished" for trial in self.records)),
            "winner": None
            if best is None
            else {
                "number": best.number,
                "trial_key": best.trial_key,
                "values": best.values,
                "metrics": best.metrics,
                "confirmed": self.confirmed(best),
                "chance": chance_facts(best),
            },
            "pareto": [trial.number for trial in self.pareto],
            "seconds": self.seconds,
            "ending": self.ending,
            "packing": self.packing.table(),
            "cache": {
                "hits": sum(len(trial.cache_hits) for trial in finished),
                "waited_seconds": sum(trial.waited_seconds for trial in finished),
                "saved_seconds": sum(trial.saved_seconds for trial in finished),
                "saved_gpu_seconds": sum(trial.saved_gpu_seconds for trial in finished),
                "computed_seconds": sum(sum((t.stage_seconds or {}).values()) - t.saved_seconds for t in finished),
            },
            "environment": self.started.get("environment", {}),
            "versions": self.started.get("versions", {}),
        }

    def write(self) -> None:
        """Write trials.csv, pareto.csv and summary.json, each replaced in one step."""
        write_csv(self.directory / TRIALS, trial_rows(self.study, self.records))
        write_csv(self.directory / PARETO, trial_rows(self.study, self.pareto))
        replace_text(self.directory / SUMMARY, json.dumps(self.summary(), indent=2) + "\n")


def load_study(directory: Path | str) -> StudyResults:
    """Return the results of a study's folder, finished or not: ``.trials`` (DataFrame), ``.pareto``, ``.best``.

    Raises:
        BadInput: if the folder is not a study's.
    """
    return StudyResults(directory)


def pareto_front(study: StudyConfig, trials: list[Trial]) -> list[Trial]:
    """Return the complete (so feasible) trials that no other dominates in the objectives, by number."""
    signs = {name: 1.0 if way == "min" else -1.0 for name, way in study.objectives.items()}
    points = [
        (trial, [_metric(trial, name, sign) for name, sign in signs.items()])
        for trial in trials
        if trial.outcome == "complete"
    ]

    def dominates(a: list[float], b: list[float]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    front: list[tuple[Trial, list[float]]] = []
    for trial, values in sorted(points, key=lambda point: point[1]):  # whoever dominates a point comes before it
        if not any(dominates(other, values) for _, other in front):
            front.append((trial, values))
    return sorted((trial for trial, _ in front), key=lambda trial: trial.number)


def trial_rows(study: StudyConfig, trials: list[Trial]) -> list[dict[str, Any]]:
    """Return one flat row a trial, every row with the same columns."""
    metrics = sorted({name for trial in trials for name in trial.metrics or {}})
    there = {stage for trial in trials for stage in trial.keys or {}}
    stages = [name for name, stage in STAGES.items() if name in there or not stage.optional]
    rows = []
    for trial in trials:
        row: dict[str, Any] = {
            "number": trial.number,
            "trial_key": trial.trial_key,
            "outcome": trial.outcome or "unfinished",
            "duplicate_of": trial.duplicate_of,
        }
        row |= {name: trial.values.get(name) for name in study.space}
        row |= {name: (trial.metrics or {}).get(name) for name in metrics}
        row |= {f"key/{stage}": (trial.keys or {}).get(stage) for stage in stages}
        row |= {"cache_hits": " ".join(trial.cache_hits), "waited_seconds": round(trial.waited_seconds, 3)}
        row |= {"saved_seconds": round(trial.saved_seconds, 3), "saved_gpu_seconds": round(trial.saved_gpu_seconds, 3)}
        row |= {f"seconds/{stage}": (trial.stage_seconds or {}).get(stage) for stage in stages}
        row |= {"attempt": trial.attempt, "progress": trial.progress, "gpu": trial.gpu}
        row |= {"seconds": trial.seconds, "node": trial.node, "error": trial.error, "log": trial.log}
        rows.append(row)
    return rows


def _values(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.model_fields_set if name not in ("event", "time")}


def _val_metrics(point: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in point.items()
        if name.startswith("val/") and (value is None or isinstance(value, float))
    }


def _metric(trial: Trial, name: str, sign: float = 1.0) -> float:
    """Return ``sign`` times the metric, so that lower is better; a missing one is the worst there is."""
    value = (trial.metrics or {}).get(name)
    return math.inf if value is None else sign * value
