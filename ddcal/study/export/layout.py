"""What an export says of its run, in ``run.yaml`` and ``run.lock.json``: files that somebody else may have made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ddcal.config.reading.yaml_reader import parse_yaml
from ddcal.config.trial import flatten
from ddcal.errors import BadInput, cut
from ddcal.pipeline.stages import STAGES
from ddcal.untrusted import MAX_BYTES, Untrusted, open_below, parse_json, plain_name

RUN, LOCK = "run.yaml", "run.lock.json"
LOCK_SUM = f"# sha256 of {LOCK}: "
"""Begins a comment at the head of `RUN`, which tells which of the two was edited; older exports have none."""

FORMAT_VERSION = 1
NOT_COMPARED = ("reliability.png", "shift.png", "pictures.safetensors")
"""Pictures: drawn from evaluation.json, which is compared, or of the way to images that are; older stages have none."""

SOURCE = "distilled/source.safetensors"
"""What a replay reads in place of the file that a set was imported from."""

CUDA_TOLERANCE = 0.02
"""How far metrics may be on another GPU or with other versions, of a value up to 1: a share of what is larger.

On the run's own GPU model, as on the CPU, the tolerance is 0.
"""

CUDA_ERRORS = 4.0
"""Or so many standard errors of the difference of two means over the trial's networks, where that is more."""

MAX_THREADS = max(256, os.cpu_count() or 1)
"""More threads than this no run has had: each is a thread of this process."""

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, AfterValidator(plain_name), Field(max_length=300)]


def _stage(name: str) -> str:
    if name not in STAGES:
        raise ValueError(f"not a stage: {', '.join(STAGES)}")
    return name


class ExportError(BadInput):
    """What was asked for cannot be exported or replayed; the message says why and what would be right."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")  # a later version may say more


class _Environment(_Model):
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:.*)?)$", max_length=200)]
    precision: Literal["float32", "tf32"]
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)]
    compile: bool = False


class _StageRecord(_Model):
    key: _Digest
    files: dict[_Name, _Digest]
    versions: dict[_Name, str] = {}


class _Models(_Model):
    formats: list[str]
    network: int
    files: dict[_Name, _Digest]


class _Source(_Model):
    path: Annotated[str, Field(max_length=300)]
    others: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=20)]
    sha256: _Digest
    package: str = ""
    version: str = ""


class _Run(_Model):
    target: Literal["ddnn", "distill"]
    config: dict[str, Any]
    environment: _Environment
    data_fingerprint: _Digest
    versions: dict[_Name, str]
    tolerance: float
    metrics: dict[_Name, float | None]
    stages: Annotated[dict[Annotated[str, AfterValidator(_stage)], _StageRecord], Field(min_length=1)]
    models: _Models | None = None
    components: dict[_Name, _Source] = {}
    files: dict[_Name, _Digest] = {}


def read_run(folder: Path | str) -> dict[str, Any]:
    """Return an export's run.yaml after checking that it is whole and unedited.

    Raises:
        ExportError: naming each missing or changed file, each key whose value differs from run.lock.json, and each
            that is not of its type.
    """
    folder = Path(folder)
    texts = {name: _text(folder, name) for name in (RUN, LOCK)}
    run, lock = _mapping(folder / RUN, texts[RUN], parse_yaml), _mapping(folder / LOCK, texts[LOCK], parse_json)
    _check_unedited(folder, flatten(run), flatten(lock), _lock_edited(texts))
    if run.get("format_version") != FORMAT_VERSION:
        raise ExportError(
            f"{folder / RUN}: format_version is {_short(run.get('format_version'))}, this ddcal reads {FORMAT_VERSION}"
        )
    try:
        _Run.model_validate(run)
        problems = _changed_files(folder, run)
    except ValidationError as error:
        problems = [f"{folder / RUN}: {problem}" for problem in _told(error)]
    if problems:
        raise ExportError("\n".join([*problems, "take the export as it was written, or export the trial again"]))
    return run


def _text(folder: Path, name: str) -> str:
    path = folder / name
    try:
        with open_below(folder, name, max_bytes=MAX_BYTES) as stream:
            return stream.read(MAX_BYTES).decode()
    except FileNotFoundError as error:
        raise ExportError(f"{folder} is not an export: {name} is missing") from error
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} cannot be read: it is not UTF-8 text (byte {error.start})") from error
    except Untrusted as error:
        raise ExportError(f"{path} {error}") from error


def _mapping(path: Path, text: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        values = parse(text)
    except Untrusted as error:
        raise ExportError(f"{path} {error}") from error
    if not isinstance(values, dict):
        raise ExportError(f"{path} is not a mapping")
    return values


def _lock_edited(texts: Mapping[str, str]) -> bool | None:
    """Return whether run.lock.json is another than run.yaml says at its head; None where that says nothing."""
    head = takewhile(lambda line: line.startswith("#"), texts[RUN].splitlines())
    said = next((line.removeprefix(LOCK_SUM) for line in head if line.startswith(LOCK_SUM)), None)
    return None if said is None else said != hashlib.sha256(texts[LOCK].encode()).hexdigest()


def _check_unedited(folder: Path, run: dict[str, Any], lock: dict[str, Any], lock_edited: bool | None) -> None:
    absent = object()
    here, other, name = (lock, run, LOCK) if lock_edited else (run, lock, RUN)
    edited = [
        f"{folder / name}: {_name(key)} is {_shown(here, key)}, but was exported as {_shown(other, key)}"
        for key in sorted(run.keys() | lock.keys())
        if run.get(key, absent) != lock.get(key, absent) or type(run.get(key)) is not type(lock.get(key))
    ]
    if edited:
        left = [f"and {len(edited) - 20} more"] if len(edited) > 20 else []
        cure = "restore the exported values, or run a study of your own with these"
        if lock_edited is None:
            cure += f"; this {RUN} does not say whether {LOCK} is as it was exported: if that was edited, restore it"
        if len(edited) == 1 and "config.data.root" in {key for key in run if run[key] != lock.get(key, absent)}:
            cure = "restore it: where the same data lies here is said by --data-root PLACE or $DDCAL_DATA"
        raise ExportError("\n".join([*edited[:20], *left, cure]))


def _changed_files(folder: Path, run: dict[str, Any]) -> list[str]:
    """Return what is wrong with the files that lie in the export, which a reader may use without a replay."""
    recorded = {
        f"{place}/{name}".removeprefix("./"): (record["files"][name], f"stages.{stage}.files.{name}")
        for stage, record in run["stages"].items()
        for name, place in STAGES[stage].exported(record["files"]).items()
    }
    for section, files in (
        ("models.files", (run.get("models") or {}).get("files", {})),
        ("files", run.get("files", {})),
    ):
        recorded |= {name: (digest, f"{section}.{name}") for name, digest in files.items()}
    problems = []
    for name, (digest, key) in recorded.items():
        try:
            with open_below(folder, name) as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    problems.append(f"{folder / name} was changed: its sha256 is not {key} of {RUN}")
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{folder / name} is missing")
        except OSError as error:
            problems.append(f"{folder / name} cannot be read: {error.strerror or error}")
        except Untrusted as error:
            problems.append(f"{folder / name} {error}")
    return problems


def _told(error: ValidationError) -> list[str]:
    """Return the first problems of a file's form, a line each."""
    found = []
    for problem in error.errors()[:20]:
        where = ".".join(_name(str(part)[:80]) for part in problem["loc"])
        said = "is missing" if problem["type"] == "missing" else f"is {_short(problem['input'])}: {problem['msg']}"
        found.append(f"{where} {said}")
    return found


def _shown(values: dict[str, Any], key: str) -> str:
    return _short(values[key]) if key in values else "missing"


def _name(key: str) -> str:
    """Return a key as it can be printed, whatever somebody wrote."""
    return key if key.isprintable() and len(key) <= 200 else _short(key)


def _short(value: object) -> str:
    return cut(repr(value), 200)
