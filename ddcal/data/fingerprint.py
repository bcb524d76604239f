"""The identity of a dataset's source files, cheap enough to ask for in every plan and every stage key."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddcal.config import DataConfig
from ddcal.data.errors import DataError
from ddcal.data.image_folders import ImageFolder, raise_problems
from ddcal.data.progress import progress
from ddcal.data.sources import Source, locate_source

DATA_VERSION = 1
"""Raised whenever the same files give other images, labels or splits."""
READERS = 8
"""Threads that read image files; most of their time is waiting."""
CACHE_FOLDER = ".ddcal"
"""Folder beside the source files that keeps what is derived from them; it can be deleted at any time."""


def dataset_fingerprint(config: DataConfig) -> str:
    """Return 64 hex digits that change when the dataset's files change; where the files lie has no influence.

    Nothing is decoded. Contents are hashed once and kept in ``<data root>/.ddcal/fingerprints.json`` with each file's
    size and modification time; later calls compare those alone. Of image files, one entry keeps a digest over all
    sizes and times, and one over all contents. If the folder cannot be written, files are hashed every time. ``zca``,
    ``resolution``, ``resize`` and ``validation_fraction`` are settings, not files: they are not part of it.

    Raises:
        DataError: if the files are missing or cannot be read, listing the missing ones.
    """
    return source_fingerprint(config.name, locate_source(config))


def source_fingerprint(name: str, source: Source) -> str:
    """Return the fingerprint of a located source of the dataset ``name``; see `dataset_fingerprint`."""
    digest = hashlib.sha256(f"ddcal-data {DATA_VERSION} {name}".encode())
    hashes = _content_hashes(source)
    if source.images is not None:
        hashes["images"] = _images_hash(source, source.images)
    for role, content in sorted(hashes.items()):
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
    hashes, news = dict[str, str](), dict[str, object]()
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
        _keep(memory, news)
    return hashes


def _images_hash(source: Source, images: ImageFolder) -> str:
    """Return a sha256 over the paths and contents of all image files, kept as long as no size or time changes."""
    assert source.root is not None
    listing, memory = images.listing, source.root / CACHE_FOLDER / "fingerprints.json"
    key = f"{images.path.relative_to(source.root).as_posix()}/*"
    entry = _read_memory(memory).get(key)
    if isinstance(entry, dict) and entry.get("state") == listing.state and isinstance(entry.get("sha256"), str):
        return entry["sha256"]
    paths = sorted(path for part in listing.paths.values() for path in part)

    def content(path: str) -> str | OSError:
        try:
            return hashlib.sha256((images.path / path).read_bytes()).hexdigest()
        except OSError as error:
            return error

    digest, problems = hashlib.sha256(), []
    with progress(f"reading {images.name}", len(paths)) as done, ThreadPoolExecutor(READERS) as pool:
        for path, found in zip(paths, pool.map(content, paths), strict=True):
            if isinstance(found, OSError):
                problems.append(f"{path}: {found.strerror or found}")
            digest.update(f"{path} {found}\n".encode())
            done(1)
    raise_problems(images.path, problems)
    _keep(memory, {key: {"state": listing.state, "sha256": digest.hexdigest()}})
    return digest.hexdigest()


def _keep(memory: Path, entries: dict[str, object]) -> None:
    text = json.dumps({**_read_memory(memory), **entries}, indent=1, sort_keys=True)
    write_atomically(memory, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _read_memory(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        memory = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}
