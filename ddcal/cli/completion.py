"""What the shell offers at the Tab key: studies, their folders, and the keys of ``--set``; nothing heavy is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ddcal.errors import BadInput

STUDY_SUFFIXES = (".yaml", ".yml")


def complete_study(incomplete: str) -> list[str]:
    """Return the shipped studies, study files and folders that begin with what was typed."""
    from ddcal.config.shipped import shipped_studies

    try:
        shipped = [study.name for study in shipped_studies() if study.name.startswith(incomplete)]
    except BadInput:  # an installation without them
        shipped = []
    paths = [name for name, path in _entries(incomplete) if path.is_dir() or path.suffix in STUDY_SUFFIXES]
    return list(dict.fromkeys([*shipped, *paths]))


def complete_folder(incomplete: str) -> list[str]:
    """Return the folders that begin with what was typed, and at first those of studies in ``runs``."""
    runs = [str(ledger.parent) for ledger in sorted(Path("runs").glob("*/ledger.jsonl"))]
    found = [name for name in runs if name.startswith(incomplete)]
    return found or [name for name, path in _entries(incomplete) if path.is_dir()]


def complete_setting(incomplete: str) -> list[str]:
    """Return the keys of ``--set`` that begin with what was typed; nothing once there is a value."""
    from ddcal.config.reading.overrides import setting_keys

    return [] if "=" in incomplete else [f"{key}=" for key in setting_keys() if key.startswith(incomplete)]


def _entries(incomplete: str) -> Iterator[tuple[str, Path]]:
    """Yield what lies where the typed path points: the name as it would be typed (a folder with a slash), the path."""
    folder, slash, start = incomplete.rpartition("/")
    try:
        inside = sorted(Path(f"{folder}{slash}" or ".").iterdir())
    except OSError:
        return
    for path in inside:
        if path.name.startswith(start) and (start or not path.name.startswith(".")):
            yield f"{folder}{slash}{path.name}{'/' * path.is_dir()}", path
