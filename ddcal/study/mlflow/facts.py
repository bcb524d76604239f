"""What MLflow is told of a study as a whole, from the first line of its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddcal.study.record.events import StudyStarted
from ddcal.study.record.ledger import LEDGER, parse_event
from ddcal.study.record.recorded import recorded_store, recorded_study


def study_facts(directory: Path) -> dict[str, Any]:
    """Return what the first line of a study's ledger says that its runs in MLflow are tagged with."""
    with (directory / LEDGER).open("rb") as stream:
        first = parse_event(stream.readline())
    assert isinstance(first, StudyStarted)
    study = recorded_study(first, directory)
    return {
        "study": study["name"],
        "study_id": first.study_id,
        "objectives": list(study["objectives"]),
        "constraints": list(study.get("constraints") or ()),
        "git_commit": first.git_commit or "",
        "store": recorded_store(first, directory),
        "cache": study.get("storage", {}).get("cache"),
    }
