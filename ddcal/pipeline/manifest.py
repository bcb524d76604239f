"""The manifest of an artefact: which files belong to it, with size and sha256, and what its stage recorded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """A finished stage.

    Attributes:
        stage: The stage's name.
        key: Its key.
        folder: Where its files lie on this machine.
        meta: What the stage recorded: curve, seconds, versions…
        files: Relative file name → sha256 in hex.
    """

    stage: str
    key: str
    folder: Path
    meta: dict[str, Any]
    files: dict[str, str]


def write_manifest(folder: Path, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Let ``write`` put an entry's files into ``folder`` and return their manifest, which is beside them by then."""
    meta = write(folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    manifest = {"stage": stage, "key": key, "created": time.time(), "meta": meta, "files": files}
    manifest["sha256"] = _sha256(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return manifest


def read_manifest(content: bytes | None, stage: str, key: str) -> dict[str, Any]:
    """Return a manifest after checking its own sum, its form and that it is this key's.

    Raises:
        ValueError: with what is wrong.
    """
    if content is None:
        raise ValueError(f"{MANIFEST} is missing")
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{MANIFEST} is unreadable ({error})") from error
    try:
        if manifest["sha256"] != _sha256(manifest):
            raise ValueError(f"{MANIFEST} does not match its own sha256")
        if (manifest["stage"], manifest["key"]) != (stage, key):
            raise ValueError(f"{MANIFEST} belongs to {manifest['stage']}/{manifest['key']}")
        if not isinstance(manifest["meta"], dict):
            raise ValueError(f"{MANIFEST} has no meta")
        for record in manifest["files"].values():
            int(record["bytes"]), str(record["sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} is not in the format ({error})") from error
    return dict(manifest)


def first_fault(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Return the first thing that is wrong with an entry's files after reading them all, or None if it is whole."""
    return next((fault for name in manifest["files"] if (fault := file_fault(folder / name, name, manifest))), None)


def file_fault(path: Path, name: str, manifest: dict[str, Any]) -> str | None:
    """Return what is wrong with the file ``name`` of an entry, which lies at ``path``, or None."""
    record = manifest["files"][name]
    try:
        if path.stat().st_size != record["bytes"] or file_sha256(path) != record["sha256"]:
            return f"{name} does not match its sha256"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"
    return None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256(manifest: dict[str, Any]) -> str:
    """Return the sha256 of everything in the manifest but the sum itself: it holds numbers that files do not."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
