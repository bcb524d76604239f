"""The ledger: an append-only file of events, written by the driver alone; the truth about every trial of a study.

A line is one event (`ddcal.study.record.events`) as JSON, with its number in the file and a checksum that chains it
to the line before (`ddcal.study.record.chain`). Ledgers of earlier versions have neither; they are read, and gone on
with.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from ddcal.errors import BadInput
from ddcal.study.record.chain import Link, seal, unseal
from ddcal.study.record.events import (
    Event,
    GpuMeasured,
    Outcome,
    StudyStarted,
    TrialAttemptFailed,
    TrialFinished,
    TrialPoints,
    TrialStarted,
    UnknownHere,
    check_study,
    only_unknown,
    parsed,
    plain,
)
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.provenance import written_by
from ddcal.untrusted import Untrusted, open_regular

__all__ = ["FIDELITY_STEPS", "LEDGER", "DamagedLedger", "Ledger", "Outcome", "begun", "parse_event", "read_ledger"]

LEDGER = "ledger.jsonl"

FIDELITY_STEPS = 1000
"""``fidelity`` is ``progress`` in thousandths: the time of schedulers and the step of MLflow's metrics."""

_LINE = re.compile(rb',"line":(\d{1,9})}\Z')
_NAME = re.compile(rb'"event": ?"(\w{1,40})"')
_NUMBER = re.compile(rb'"number": ?(\d{1,9})\b')
_OF_A_TRIAL = (TrialPoints, GpuMeasured, TrialAttemptFailed, TrialFinished)
_OLDER = "what an earlier version wrote before it"
_WORDS = {
    "study_started": "what the study is",
    "study_resumed": "that it was resumed",
    "trial_started": "with which values {trial} began",
    "trial_points": "{trial}'s progress",
    "gpu_measured": "how much GPU memory {trial} took",
    "trial_attempt_failed": "that {trial} ran out of memory",
    "trial_finished": "{trial}'s result",
    "study_finished": "that the study ended",
    "ledger_repaired": "what an earlier repair took out",
}


class DamagedLedger(BadInput):
    """A ledger that is not as it was written; the message names the file, the line and what is lost."""


class NewerLedger(BadInput):
    """A ledger that is whole, with a line that says what this version of ddcal does not know."""


@dataclass(frozen=True)
class Line:
    """One line of a ledger.

    Attributes:
        number: Its number in the file, from 1.
        end: The byte behind it.
        content: Its JSON, without its number and checksum.
        event: The event; None if the line is damaged.
        fault: What is wrong with it; None if nothing is.
        unknown: Whether the fault is in a line before it, and which one that is cannot be told.
        lost: In words, what it or those missing before it held, as far as that can be told.
        newer: Whether it is whole, and the fault is that another version of ddcal wrote it; ``lost`` says which then.
    """

    number: int
    end: int
    content: bytes
    event: Event | None
    fault: str | None
    lost: str
    unknown: bool = False
    newer: bool = False


class Ledger:
    """Events as JSON lines with the time in milliseconds."""

    def __init__(self, directory: Path) -> None:
        """Open the ledger of a study's folder, creating it if missing; a half-written last line is cut off.

        Raises:
            DamagedLedger: if it is damaged.
            NewerLedger: if another version of ddcal went on with it.
        """
        self.path = directory / LEDGER
        self._lines, self._check, end = 0, "", 0
        if self.path.exists():
            for line, check in _checked(self.path):
                _refuse(line, self.path)
                self._lines, self._check, end = line.number, check, line.end
        self._stream = self.path.open("ab", buffering=0)  # a buffer would keep what a full disk has refused
        self._stream.truncate(end)

    def append(self, kind: type[Event], *, sync: bool = True, **values: Any) -> None:
        """Write one event; NaN and infinities become null.

        Args:
            kind: The event.
            sync: Whether it is on the disk (fsync) before this returns; otherwise it is with the next one that is.
            values: Its JSON values.

        Raises:
            OSError: if the disk does not take it; then nothing of it is in the ledger.
        """
        event = kind.model_validate({"time": int(time.time() * 1000), **plain(values)})
        fields = event.model_dump(exclude_unset=True)
        content = {"event": event.event, "time": fields.pop("time"), **fields}
        number = self._lines + 1
        line, check = seal(self._check, numbered(json.dumps(content, allow_nan=False).encode(), number))
        write_whole(self._stream, line)
        self._lines, self._check = number, check
        if sync:
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def no_study(directory: Path | str) -> BadInput:
    """Return the error of a folder that has no ledger; of an S3 address it says how to get the folder."""
    if address := re.match(r"s3:/+(.+)", str(directory)):  # a path has one slash of its two
        place = f"s3://{address[1]}"
        return BadInput(
            f"{place} is on S3, and this must be a folder: `ddcal fetch {shlex.quote(place)}` brings the study to this "
            "machine and names its folder"
        )
    return BadInput(f"{directory} is not a study's folder: it has no {LEDGER}")


def not_begun(directory: Path | str) -> BadInput:
    """Return the error of a folder whose ledger has not even one line."""
    if not (Path(directory) / STUDY).is_file():
        return BadInput(f"{directory}: {LEDGER} does not begin with the study; it cannot be read")
    return BadInput(
        f"{directory} has not begun: {LEDGER} has no line yet, as after a kill in the first moments: "
        f"`ddcal resume {shlex.quote(str(directory))}` begins it"
    )


def not_one(what: str, error: Exception, versions: dict[str, Any] | None = None) -> BadInput:
    """Return the error of a config in a ledger that cannot be read.

    Args:
        what: The ledger and what is to be a config, in words.
        error: What reading it raised.
        versions: Those of the session that wrote it; None: it is damaged, as what other versions write was told before.
    """
    said = f"{what} in it is not one: {in_short(error)}"
    if versions is None or not only_unknown(error):
        return DamagedLedger(said)
    return NewerLedger(f"{said}; {written_by(versions.get('ddcal'))}")


def write_whole(stream: FileIO, content: bytes) -> None:
    """Append bytes to an unbuffered file; what a full disk took of them is cut off again.

    Raises:
        OSError: if the disk does not take them all.
    """
    before = os.fstat(stream.fileno()).st_size
    try:
        left = memoryview(content)
        while left:
            left = left[stream.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            stream.truncate(before)
        raise


def begun(directory: Path | str) -> bool:
    """Return whether the folder has a ledger with its first line whole."""
    try:
        with open_regular(Path(directory) / LEDGER, links=True) as stream:
            return stream.readline().endswith(b"\n")
    except (OSError, Untrusted):
        return False


def read_ledger(directory: Path) -> Iterator[Event]:
    """Yield the events of a study's folder, oldest first; a half-written last line is left out.

    Raises:
        FileNotFoundError: if the folder has no ledger.
        DamagedLedger: at a line that is not as it was written, or cannot stand where it does.
        NewerLedger: at a line that is whole, and says what this version does not know.
    """
    path = directory / LEDGER
    for line, _ in _checked(path):
        _refuse(line, path)
        assert line.event is not None
        yield line.event


def read_lines(directory: Path) -> Iterator[Line]:
    """Yield every line of a study's ledger, damaged ones too; a half-written last line is left out.

    Raises:
        FileNotFoundError: if the folder has no ledger.
    """
    for line, _ in _checked(directory / LEDGER):
        yield line


def step_of(point: dict[str, Any]) -> int:
    """Return where a point of a trial's progress lies, in `FIDELITY_STEPS`."""
    return round(point["progress"] * FIDELITY_STEPS)


def parse_event(line: bytes) -> Event:
    """Return the event of one line.

    Raises:
        ValueError: in a few words, what is wrong with it.
    """
    linked = unseal("", line)
    return parsed(linked.content if linked.after is None else _unnumbered(linked.content)[0])


def _checked(path: Path) -> Iterator[tuple[Line, str]]:
    """Yield every line with the checksum that the next one is chained to."""
    check, end, chained = "", 0, False
    last, damaged = 0, 0  # the number of the last line that is whole, and how many damaged ones have followed
    running: set[int] = set()
    writer: Any = None  # the version that the first line or the last session states
    foreign = False  # whether another version's lines have been met: which trials run is not known then
    with _opened(path) as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.endswith(b"\n"):
                return
            end += len(raw)
            linked = unseal(check, raw)
            content, stated = _unnumbered(linked.content) if linked.after is not None else (linked.content, None)
            event: Event | None = None
            fault = (
                _unchained(linked, chained)
                or _out_of_order(stated, last)
                or (None if damaged else _foreign(linked, check, stated, last, chained))
            )
            newer = False
            if fault is None:
                writer = _version(content) or writer
                try:
                    event = parsed(content)
                    fault = None if foreign else _misplaced(event, number, running)
                    if fault is None and linked.after is not None:
                        check_study(event)
                except ValueError as error:
                    fault = str(error)
                    newer = isinstance(error, UnknownHere) and linked.after is not None
            event, lost = (event, "") if fault is None else (None, written_by(writer) if newer else _lost(content))
            if linked.whole and stated is not None and (missing := _missing(stated, last, damaged)):
                fault, lost, newer = missing, "what was in it cannot be told", False  # the line itself may be whole
            unknown = (fault or "").startswith(_OLDER)
            yield Line(number, end, content, event, fault, lost, unknown, newer), linked.check
            check, chained, foreign = linked.check, chained or linked.after is not None, foreign or newer
            last, damaged = (stated or number, 0) if event is not None or newer else (last, damaged + 1)


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path, links=True)
    except Untrusted as error:
        raise DamagedLedger(f"{path} {error}, where the study's ledger should be") from None


def _unnumbered(content: bytes) -> tuple[bytes, int | None]:
    found = _LINE.search(content)
    return (content, None) if found is None else (content[: found.start()] + b"}", int(found[1]))


def _unchained(linked: Link, chained: bool) -> str | None:
    if linked.after is None and chained:
        return "it has no checksum"
    return None if linked.whole else "its checksum does not fit it"


def _out_of_order(stated: int | None, last: int) -> str | None:
    return f"it was line {stated}: lines were doubled or moved" if stated is not None and stated <= last else None


def _foreign(linked: Link, before: str, stated: int | None, last: int, chained: bool) -> str | None:
    """Return why a line does not belong behind the one before it, although both are whole, or None."""
    if linked.after in (None, before) or stated != last + 1:
        return None
    if not chained:
        return f"{_OLDER}, lines 1 to {last}, is not as it was"
    return "it was written behind another line"


def _missing(stated: int, last: int, damaged: int) -> str | None:
    count = stated - (last + damaged + 1)
    if count <= 0:
        return None
    return f"{'a line' if count == 1 else f'{count} lines'} before it {'is' if count == 1 else 'are'} missing or moved"


def _version(content: bytes) -> Any:
    """Return the version of ddcal that a driver's first line states, if it is one and does."""
    kind = _NAME.search(content)
    if kind is None or kind[1] not in (b"study_started", b"study_resumed"):
        return None
    try:
        return json.loads(content)["versions"]["ddcal"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _misplaced(event: Event, number: int, running: set[int]) -> str | None:
    """Return why an event cannot stand where it does, or None, and note which trials run."""
    if isinstance(event, StudyStarted) is not (number == 1):
        return "a ledger begins with study_started, and has it once"
    if isinstance(event, _OF_A_TRIAL) and event.number not in running:
        return f"trial {event.number} does not run by then"
    if isinstance(event, TrialStarted):
        running.add(event.number)
    elif isinstance(event, TrialFinished):
        running.remove(event.number)
    return None


def _refuse(line: Line, path: Path) -> None:
    if line.fault is None:
        return
    said = f"{path}: line {line.number}: {line.fault}; {line.lost}"
    if line.newer:
        raise NewerLedger(said)
    look = f"`ddcal verify {shlex.quote(str(path.parent))}` says what is whole and what can be mended"
    raise DamagedLedger(f"{said}: {look}")


def _lost(content: bytes) -> str:
    """Return what a line held, told from what can be recognised of it."""
    kind, trial = _NAME.search(content), _NUMBER.search(content)
    words = _WORDS.get(kind[1].decode()) if kind else None
    if words is None:
        return "it held one event" if trial is None else f"it held an event of trial {int(trial[1])}"
    return f"it held {words.format(trial='a trial' if trial is None else f'trial {int(trial[1])}')}"


def numbered(content: bytes, number: int) -> bytes:
    """Return a line's JSON object with its number in the file."""
    return content[:-1] + f',"line":{number}}}'.encode()


def in_short(error: Exception) -> str:
    """Return what is wrong, in one line: of a model's many errors the first."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing" if error.args else "a key is missing"
    if isinstance(error, ValueError) and str(error):  # a sentence of ours, or of a parser
        return str(error)
    return f"{type(error).__name__}: {error}"
