"""Writing the files of a study's folder: each is there in full or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import uuid
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.reading.yaml_reader import dump_yaml
from ddcal.errors import BadInput
from ddcal.study.record.recorded import portable_study

STUDY = "study.yaml"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows that have the same columns as a table."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["number"])
    writer.writeheader()
    writer.writerows(rows)
    replace_text(path, text.getvalue())


def write_study_file(study: StudyConfig, directory: Path) -> None:
    """Write the study's config as the study.yaml of its folder: paths below the output root relative to it."""
    replace_text(directory / STUDY, dump_yaml(portable_study(study, directory)))


def replace_text(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all; where the disk does not take it, the old one stays."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # two processes may write it at once
    try:
        temporary.write_text(text, newline="")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if path.is_dir():
            raise BadInput(f"{path} is a folder, where a file of the study belongs: move it away") from error
        raise
