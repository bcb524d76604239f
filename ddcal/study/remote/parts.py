"""The ledger on S3: whole lines of it, in numbered parts that are written once and never again.

A part's first line says what follows, with its sha256; the rest are lines of the ledger as they are. All parts behind
each other, without their first lines, are the ledger.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddcal.store.bucket import Bucket
from ddcal.study.record.ledger import DamagedLedger
from ddcal.untrusted import parse_json

FOLDER = "ledger"
READERS = 16
"""How many parts are read at a time."""

MAX_HEADER = 10_000
_NAME = re.compile(rf"{FOLDER}/(\d{{8}})\.jsonl")
_CURE = "put it back as it was written (a bucket that keeps versions has it), or run the study again under another name"

Count = Annotated[int, Field(ge=1, lt=2**31)]


class Header(BaseModel):
    """A part's first line.

    Attributes:
        part: Its number, from 1.
        first: The number of its first line in the ledger, from 1.
        lines: How many lines it has.
        by: The driver that wrote it, in words.
        token: What tells that driver from all others.
        sha256: Of its lines.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    part: Count
    first: Count
    lines: Count
    by: Annotated[str, Field(max_length=500)]
    token: Annotated[str, Field(max_length=100)]
    sha256: str


@dataclass(frozen=True)
class Parts:
    """What S3 has of a ledger: how many parts, and all of their lines."""

    count: int = 0
    content: bytes = b""

    @property
    def lines(self) -> int:
        """How many lines of the ledger these are."""
        return self.content.count(b"\n")


def part_name(number: int) -> str:
    """Return a part's name, from the study's place on."""
    return f"{FOLDER}/{number:08d}.jsonl"


def pack(number: int, first: int, lines: bytes, by: str, token: str) -> bytes:
    """Return the bytes of a part.

    Args:
        number: The part's.
        first: The number of its first line in the ledger.
        lines: Whole lines.
        by: The driver, in words.
        token: What tells that driver from all others.
    """
    digest = hashlib.sha256(lines).hexdigest()
    header = Header(part=number, first=first, lines=lines.count(b"\n"), by=by[:500], token=token, sha256=digest)
    return header.model_dump_json().encode() + b"\n" + lines


def unpack(content: bytes) -> tuple[Header, bytes]:
    """Return a part's first line and its lines of the ledger.

    Raises:
        ValueError: in a few words, what is wrong with it.
    """
    first, newline, lines = content.partition(b"\n")
    try:
        header = Header.model_validate(parse_json(first, max_bytes=MAX_HEADER))
    except ValidationError:
        raise ValueError("is not in its format") from None
    if not newline or not lines.endswith(b"\n") or lines.count(b"\n") != header.lines:
        raise ValueError(f"has not the {header.lines} lines that it had")
    if hashlib.sha256(lines).hexdigest() != header.sha256:
        raise ValueError("does not fit its checksum")
    return header, lines


def count_parts(bucket: Bucket) -> int:
    """Return how many parts there are.

    Raises:
        DamagedLedger: if one is missing, or something else lies among them.
        StoreError: if S3 cannot be read.
    """
    found = [(name, _NAME.fullmatch(name)) for name in bucket.names(FOLDER)]
    foreign = [name for name, match in found if match is None]
    if foreign:
        raise DamagedLedger(f"{bucket.where(foreign[0])} is no part of a ledger: move it away")
    numbers = [int(match[1]) for _, match in found if match is not None]
    gap = next((place for place, number in enumerate(numbers, start=1) if number != place), None)
    if gap is not None:
        raise DamagedLedger(f"{bucket.where(part_name(gap))} is missing, and part {numbers[-1]} is there: {_CURE}")
    return len(numbers)


def read_parts(bucket: Bucket) -> Parts:
    """Return all that S3 has of a ledger; its lines' own checksums are not looked at.

    Raises:
        DamagedLedger: as `count_parts`, and if a part is not as it was written.
        StoreError: if S3 cannot be read.
    """
    names = [part_name(number) for number in range(1, count_parts(bucket) + 1)]
    contents: list[bytes] = []
    lines = 0
    with ThreadPoolExecutor(READERS) as pool:
        for number, (name, found) in enumerate(zip(names, pool.map(bucket.read, names), strict=True), start=1):
            try:
                if found is None:
                    raise ValueError("is missing")
                header, content = unpack(found.content)
                if (header.part, header.first) != (number, lines + 1):
                    raise ValueError(f"is part {header.part}, from line {header.first} on, under another name")
            except ValueError as error:
                raise DamagedLedger(f"{bucket.where(name)} {error}: {_CURE}") from error
            contents.append(content)
            lines += header.lines
    return Parts(len(names), b"".join(contents))
