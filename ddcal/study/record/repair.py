"""Mending a study's folder: a ledger without its damaged lines, and MLflow's cursor in it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from ddcal.study.mlflow.cursor import CURSOR, Cursor
from ddcal.study.record.chain import seal
from ddcal.study.record.events import LedgerRepaired, StudyStarted
from ddcal.study.record.ledger import LEDGER, Line, numbered, read_lines


def why_not_mendable(lines: Sequence[Line]) -> str | None:
    """Return why a ledger cannot be mended by taking its damaged lines out, or None."""
    if any(line.newer for line in lines):
        return "lines of another version of ddcal are whole, and that version alone can keep them"
    if not lines or not isinstance(lines[0].event, StudyStarted):
        return "its first line says what the study is, and nothing else does"
    if any(line.unknown for line in lines):
        return "which of those lines was changed cannot be told"
    return None


def mend_ledger(directory: Path) -> Path:
    """Take the damaged lines out of a ledger, keep the old one beside it, and return where.

    Trials whose start or result was lost are handed out again when the study is resumed. MLflow's cursor is moved to
    the same event.
    """
    lines = list(read_lines(directory))
    lost = [f"line {line.number}: {line.fault}; {line.lost}" for line in lines if line.fault is not None]
    cursor = Cursor.read(directory)
    event = LedgerRepaired(time=int(time.time() * 1000), lost=lost)
    contents = [line.content for line in lines if line.event is not None]
    contents.append(json.dumps({"event": event.event, "time": event.time, "lost": lost}).encode())
    check, written, sent = "", b"", 0
    ends = [line.end for line in lines if line.event is not None]
    for number, content in enumerate(contents, start=1):
        line, check = seal(check, numbered(content, number))
        written += line
        if number <= len(ends) and ends[number - 1] <= cursor.offset:
            sent = len(written)
    path, new = directory / LEDGER, directory / f".{LEDGER}.new"
    with new.open("wb") as stream:
        stream.write(written)
        stream.flush()
        os.fsync(stream.fileno())
    aside = free_name(directory, f"{LEDGER}.damaged")
    shutil.copy2(path, aside)
    os.replace(new, path)
    if not cursor.lost:
        cursor.offset = sent
        cursor.write(directory)
    return aside


def set_aside_cursor(directory: Path) -> Path:
    """Move a damaged cursor out of the way, and return where it is then; MLflow is looked through again."""
    aside = free_name(directory, f"{CURSOR}.damaged")
    os.replace(directory / CURSOR, aside)
    return aside


def free_name(directory: Path, name: str) -> Path:
    """Return the first of ``name-1``, ``name-2`` … that is not there."""
    number = 1
    while os.path.lexists(path := directory / f"{name}-{number}"):
        number += 1
    return path
