"""The identity of a dataset's source files, cheap enough to ask for in every plan and every stage key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from ddcal.config import DataConfig
from ddcal.data.errors import DataError
from ddcal.data.sources import Source, locate_source

DATA_VERSION = 1
"""Raised whenever the same files give other images, labels or splits."""
CACHE_FOLDER = ".ddcal"
"""Folder beside the source files that keeps what is derived from them; it can be deleted at any time."""


def dataset_fingerprint(config: DataConfig) -> str:
    """Return 64 hex digits that change when the dataset's files change; where the files lie has no influence.

    Nothing is decoded. Contents are hashed once and kept in ``<data root>/.ddcal/fingerprints.json`` with each file's
    size and modification time; later calls compare those alone. If the folder cannot be written, files are hashed
    every time. ``zca``, ``resolution`` and ``validation_fraction`` are settings, not files: they are not part of it.

    Raises:
        DataError: if the files are missing or cannot be read.
    """
    return source_fingerprint(config.name, locate_source(config))


def source_fingerprint(name: str, source: Source) -> str:
    """Return the fingerprint of a located source of the dataset ``name``; see `dataset_fingerprint`."""
    digest = hashlib.sha256(f"ddcal-data {DATA_VERSION} {name}".encode())
    for role, content in sorted(_content_hashes(source).items()):
        digest.update(f"\n{role} {content}".encode())
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> bool:
    """Let ``write`` fill a temporary file beside ``path`` and rename it; return False where that is not possible.

    Readers see the whole file or none, however many processes write at once.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True


def _content_hashes(source: Source) -> dict[str, str]:
    """Return role → sha256 of the contents, from the kept ones where size and time still agree."""
    memory = None if source.root is None else source.root / CACHE_FOLDER / "fingerprints.json"
    known = _read_memory(memory)
    hashes, news = {}, {}
    for role, path in source.files.items():
        key = path.name if source.root is None else path.relative_to(source.root).as_posix()
        try:
            # The state from before hashing: a file that changes meanwhile is hashed again the next time.
            status = path.stat()
            entry = known.get(key)
            state = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
            if isinstance(entry, dict) and {**entry, **state} == entry and isinstance(entry.get("sha256"), str):
                hashes[role] = entry["sha256"]
                continue
            with path.open("rb") as file:
                hashes[role] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        news[key] = {**state, "sha256": hashes[role]}
    if news and memory is not None:
        text = json.dumps({**_read_memory(memory), **news}, indent=1, sort_keys=True)
        write_atomically(memory, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return hashes


def _read_memory(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        memory = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}
