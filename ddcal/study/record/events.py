"""The events of a ledger: one model an event, so that what is read is what was meant, or refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

Outcome = Literal["complete", "pruned", "failed", "out_of_memory", "infeasible", "killed"]

Number = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]{0,199}$")]
"""A trial's key, a stage, or a stage's key: it becomes part of paths, and a ledger may be anybody's."""
Seconds = Annotated[float, Field(allow_inf_nan=False)]
Metrics = dict[str, Annotated[float, Field(allow_inf_nan=False)] | None]
"""Name → value; null where it was NaN or infinite."""


def _with_progress(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for point in points:
        progress, stage = point.get("progress"), point.get("stage", "")
        if not isinstance(progress, float | int) or not 0.0 <= progress <= 1.001 or not isinstance(stage, str):
            raise ValueError("a point has a progress from 0 to 1 and the name of a stage")
    return points


class _Event(BaseModel):
    """What all events have: when they were written, in milliseconds since 1970."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    time: int = 0


class StudyStarted(_Event):
    """The first line: the study's config, where its trials compute, and which store keeps their stages."""

    event: Literal["study_started"] = "study_started"
    study: dict[str, Any]
    study_id: str = ""
    environment: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    git_commit: str | None = None
    store: str | None = None
    paths: Literal["folder"] | None = None  # relative ones are of the study's folder; None: of where it was begun


class StudyResumed(_Event):
    """Another driver goes on with the study."""

    event: Literal["study_resumed"] = "study_resumed"
    study: dict[str, Any]
    environment: dict[str, Any] | None = None
    paths: Literal["folder"] | None = None


class TrialStarted(_Event):
    """A trial was handed out: the first time, or again after a driver or an attempt had ended."""

    event: Literal["trial_started"] = "trial_started"
    number: Number
    trial_key: Name
    values: dict[str, Any]
    config: dict[str, Any]
    keys: dict[Name, Name] | None = None
    duplicate_of: Number | None = None
    attempt: Number = 1
    gpu: Seconds = 0.0
    log: str | None = None


class TrialPoints(_Event):
    """Points of a trial's progress, each with its metrics; null where one was NaN."""

    event: Literal["trial_points"] = "trial_points"
    number: Number
    points: Annotated[list[dict[str, Any]], Field(min_length=1), AfterValidator(_with_progress)]


class GpuMeasured(_Event):
    """What a trial's process was seen to need of its GPU's memory, in bytes."""

    event: Literal["gpu_measured"] = "gpu_measured"
    number: Number
    total: int
    context: int | None
    peaks: dict[str, int]


class TrialAttemptFailed(_Event):
    """A trial ran out of memory and waits for a larger share of a GPU."""

    event: Literal["trial_attempt_failed"] = "trial_attempt_failed"
    number: Number
    attempt: Number
    outcome: Outcome
    error: str | None
    seconds: Seconds | None
    gpu: Seconds
    next_gpu: Seconds


class CountedImages(BaseModel):
    """What a trial's networks were tested on: images, classes, and the images of the most common class.

    The images are those of ``test``; of a set that was distilled alone, those of ``val`` that its probe was scored on.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    images: Annotated[int, Field(ge=1)]
    classes: Annotated[int, Field(ge=1)]
    largest: Annotated[int, Field(ge=1)]


class TrialFinished(_Event):
    """How a trial ended. Its log's place was noted as it started."""

    event: Literal["trial_finished"] = "trial_finished"
    number: Number
    outcome: Outcome
    metrics: Metrics
    keys: dict[Name, Name] = {}
    cache_hits: list[str] = []
    stage_seconds: dict[str, Seconds] = {}
    stage_gpus: dict[str, Seconds] = {}
    waited_seconds: Seconds = 0.0
    seconds: Seconds | None = None
    node: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    tested_on: CountedImages | None = None  # an earlier version did not count
    diagram: str | None = None  # of an earlier version, which kept a picture beside the ledger


class Best(BaseModel):
    """The winner as the study ended."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    trial_key: Name
    metrics: Metrics | None


class StudyFinished(_Event):
    """A driver has ended its work, by itself or as it was told to."""

    event: Literal["study_finished"] = "study_finished"
    seconds: Seconds | None
    interrupted: bool
    ending: str | None = None
    finished: Number = 0
    best: Best | None = None


class LedgerRepaired(_Event):
    """Damaged lines were taken out by ``ddcal verify --repair``; ``lost`` says what they held."""

    event: Literal["ledger_repaired"] = "ledger_repaired"
    lost: list[str]


Event = (
    StudyStarted
    | StudyResumed
    | TrialStarted
    | TrialPoints
    | GpuMeasured
    | TrialAttemptFailed
    | TrialFinished
    | StudyFinished
    | LedgerRepaired
)

EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])
