"""The events of a ledger: one model an event, so that what is read is what was meant, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ddcal.config import StudyConfig

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
    versions: dict[str, Any] = {}  # empty: an earlier version did not say
    git_commit: str | None = None
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


class UnknownHere(ValueError):
    """What this version does not know in an event that another one can have written."""


def parsed(content: bytes) -> Event:
    """Return the event of a line's JSON.

    Raises:
        UnknownHere: if there is nothing wrong with it but what this version does not know.
        ValueError: in a few words, what is wrong with it.
    """
    try:
        return EVENTS.validate_json(content)
    except ValidationError:
        pass
    try:  # Python's own reader takes more: half of a surrogate pair, in the message of an error
        return EVENTS.validate_python(plain(json.loads(content)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        kind = UnknownHere if only_unknown(error) else ValueError
        if first["type"].startswith("union_tag"):
            raise kind("no event that this version of ddcal knows") from None
        raise kind(_said(first, first["loc"][1:])) from None
    except (ValueError, RecursionError):
        raise ValueError("no JSON object") from None


def only_unknown(error: Exception) -> bool:
    """Return whether there is nothing wrong but events, keys and choices that this version does not know."""
    if not isinstance(error, ValidationError):
        return False
    kinds = {one["type"] for one in error.errors(include_url=False, include_input=False)}
    return kinds <= {"union_tag_invalid", "extra_forbidden", "literal_error"}


def check_study(event: Event) -> None:
    """Refuse the study of another version; what else is wrong with one is found by whoever reads it.

    Raises:
        UnknownHere: if there are keys or choices in it that this version does not know, and all else is right.
    """
    if not isinstance(event, StudyStarted | StudyResumed):
        return
    try:
        StudyConfig.model_validate(event.study)
    except ValidationError as error:
        if only_unknown(error):
            first = error.errors(include_url=False, include_input=False)[0]
            raise UnknownHere(_said(first, ("study", *first["loc"]))) from None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return


def _said(error: Any, place: Sequence[str | int]) -> str:
    """Return one of pydantic's errors in words, with where in the event it is."""
    unknown = error["type"] == "extra_forbidden"
    message = "no key that this version of ddcal knows" if unknown else error["msg"]
    return f"{'.'.join(map(str, place))}: {message}" if place else message


def plain(value: Any) -> Any:
    """Return a value as a ledger keeps it: JSON's lists, finite numbers, text that is valid Unicode."""
    if isinstance(value, dict):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
