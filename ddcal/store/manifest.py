"""The manifest of an artefact: which files belong to it, with size and sha256, and what its stage recorded."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddcal.untrusted import Untrusted, open_below, open_regular, parse_json, plain_name

MANIFEST = "manifest.json"

MAX_FILE = 2**40
"""A file of an entry is smaller than this, in bytes."""

_NUMBER = (int, float)
_META = {
    "seconds": _NUMBER,
    "gpu": _NUMBER,
    "curve": list,
    "members": list,
    "facts": dict,
    "values": dict,
    "versions": dict,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    @property
    def whole(self) -> bool:
        """Whether its files are all there; their content is not looked at."""
        return all((self.folder / name).is_file() for name in self.files)


def write_manifest(folder: Path, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Let ``write`` put an entry's files into ``folder`` and return their manifest, which is beside them by then.

    Raises:
        OSError: if the disk does not take them.
    """
    try:
        meta = write(folder)
    except SafetensorError as error:  # its own for a full disk
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    manifest = {"stage": stage, "key": key, "created": time.time(), "meta": meta, "files": files}
    manifest["sha256"] = _sha256(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    rights = (folder / MANIFEST).stat().st_mode & 0o777
    for name in names:  # safetensors makes files that their owner alone can read, also in a store for several users
        (folder / name).chmod(rights)
    return manifest


def read_manifest(content: bytes | None, stage: str, key: str) -> dict[str, Any]:
    """Return a manifest after checking its own sum, its form and that it is this key's.

    Whoever can write into a shared store can write a manifest with a right sum: no name in it leads out of the entry's
    folder, and every field has its type.

    Raises:
        ValueError: with what is wrong.
    """
    if content is None:
        raise ValueError(f"{MANIFEST} is missing")
    try:
        manifest = parse_json(content, nan=True)
    except Untrusted as error:
        raise ValueError(f"{MANIFEST} is unreadable (it {error})") from error
    try:
        if manifest["sha256"] != _sha256(manifest):
            raise ValueError(f"{MANIFEST} does not match its own sha256")
        if (manifest["stage"], manifest["key"]) != (stage, key):
            raise ValueError(f"{MANIFEST} belongs to {manifest['stage']}/{manifest['key']}")
        if not isinstance(manifest["meta"], dict):
            raise ValueError(f"{MANIFEST} has no meta")
        _check_fields(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} is not in the format ({error})") from error
    return dict(manifest)


def _check_fields(manifest: dict[str, Any]) -> None:
    """Check names, sums, sizes and types.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: with what is wrong.
    """
    meta, files = manifest["meta"], manifest["files"]
    odd = [name for name, kind in _META.items() if name in meta and not isinstance(meta[name], kind)]  # type: ignore[arg-type]
    odd += [name for name in ("members",) if not all(isinstance(item, str) for item in meta.get(name, ()))]
    odd += [name for name in ("versions",) if not all(isinstance(one, str) for one in meta.get(name, {}).values())]
    odd += [name for name in ("curve",) if not all(isinstance(item, dict) for item in meta.get(name, ()))]
    odd += [name for name in ("seconds", "gpu") if not math.isfinite(meta.get(name, 0))]
    if odd or type(manifest["created"]) not in _NUMBER or not math.isfinite(manifest["created"]):
        raise ValueError(f"{MANIFEST} is not in the format ({odd[0] if odd else 'created'} has another type)")
    folders = {"/".join(parts[:count]) for parts in map(_parts, files) for count in range(1, len(parts))}
    for name, record in files.items():
        if name == MANIFEST or name in folders:
            raise ValueError(f"{MANIFEST} is not in the format ({name!r} cannot be a file of the entry)")
        size, digest = record["bytes"], record["sha256"]
        if type(size) is not int or not 0 <= size < MAX_FILE or not _SHA256.fullmatch(digest):
            raise ValueError(f"{MANIFEST} is not in the format (size or sha256 of {name!r})")


def _parts(name: str) -> list[str]:
    try:
        return plain_name(name).split("/")
    except Untrusted as error:
        raise ValueError(f"{MANIFEST} is not in the format ({error})") from error


def first_fault(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Return the first thing that is wrong with an entry's files after reading them all, or None if it is whole."""
    return next((fault for name in manifest["files"] if (fault := file_fault(folder, name, manifest))), None)


def file_fault(folder: Path, name: str, manifest: dict[str, Any], at: str | None = None) -> str | None:
    """Return what is wrong with the file ``name`` of an entry, or None.

    Args:
        folder: Where the entry's files lie; nothing below it may be a link.
        name: The file's name.
        manifest: The entry's.
        at: The name under which it lies there, if that is another.
    """
    record = manifest["files"][name]
    try:
        with open_below(folder, at or name) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != record["bytes"] or hashlib.file_digest(stream, "sha256").hexdigest() != record["sha256"]:
                return f"{name} does not match its sha256"
    except Untrusted as error:
        return f"{name} {error}"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"
    return None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes in hex.

    Raises:
        Untrusted: if it is a link or no regular file.
        OSError: if it is missing or cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256(manifest: dict[str, Any]) -> str:
    """Return the sha256 of everything in the manifest but the sum itself: it holds numbers that files do not."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
