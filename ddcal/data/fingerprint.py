"""The identity of a dataset's source files, cheap enough to ask for in every plan and every stage key."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddcal.config import DataConfig
from ddcal.data.errors import DataError
from ddcal.data.image_folders import ImageFolder, raise_problems
from ddcal.data.look import Look
from ddcal.data.pictures import Header, picture_bytes, read_header, ready_pillow
from ddcal.data.progress import progress
from ddcal.data.sources import Source, arrays_of_function, data_root, locate_source
from ddcal.untrusted import Untrusted, open_regular, read_json

DATA_VERSION = 1
"""Raised whenever the same files give other images, labels or splits."""
PIXELS_VERSION = 2
"""Of pictures that the decoder once read otherwise (transparent ones, and those that an EXIF tag turns): it is part of
the fingerprint of data sets that have some, and of no other."""
READERS = 8
"""Threads that read image files; most of their time is waiting."""
MEMORY_BYTES = 2**24
"""The largest file of kept fingerprints that is read."""
READ_AHEAD = 512
"""Image files that may be read before their turn: bounds what is in memory."""


def dataset_fingerprint(config: DataConfig, derived: Path | None = None) -> str:
    """Return 64 hex digits that change when the dataset's files change; where the files lie has no influence.

    Nothing is decoded, but to see whether a picture is transparent. Contents are hashed once and kept in
    ``<data root>/.ddcal/fingerprints.json`` with each file's size and modification time; later calls compare those
    alone. Of image files, one entry keeps a digest over all sizes and times, one over all contents, and what their
    headers say. If the folder cannot be written, files are hashed every time. ``zca``, ``resolution``, ``resize``,
    ``background`` and ``validation_fraction`` are settings, not files: they are not part of it.

    Args:
        config: Which data, and where.
        derived: The folder that keeps the hashes in place of ``.ddcal``.

    Raises:
        DataError: if the files are missing or cannot be read, listing the missing ones.
    """
    return source_fingerprint(config.name, replace(locate_source(config), derived=derived), config.root)


def own_cache(config: DataConfig) -> Path:
    """Return a folder of the user's cache for what is derived from data that somebody else named.

    Nothing is written beside such data, and hashes and decoded images that lie there are not believed.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddcal" / "data"
    return home / hashlib.sha256(str(data_root(config).absolute()).encode()).hexdigest()[:24]


def source_fingerprint(name: str, source: Source, root: str | None = None) -> str:
    """Return the fingerprint of a located source of the dataset ``name``; see `dataset_fingerprint`."""
    digest = hashlib.sha256(f"ddcal-data {DATA_VERSION} {name}".encode())
    hashes = {"arrays": _array_hash(name, root)} if source.kind == "function" else _content_hashes(source)
    if source.images is not None:
        hashes["images"], look = _known_images(source, source.images)
        if look.changed:
            hashes["pixels"] = str(PIXELS_VERSION)
    for role, content in sorted(hashes.items()):
        digest.update(f"\n{role} {content}".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=16)
def _array_hash(name: str, root: str | None) -> str:
    """Return a sha256 over the arrays that a user's function gives: once a process, as it has no files to look at."""
    raw, digest = arrays_of_function(name, root), hashlib.sha256()
    for array in (raw.train_images, raw.train_labels, raw.test_images, raw.test_labels):
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\n".join(raw.class_names).encode())
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
    memory = _memory(source)
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
            with open_regular(path, links=True) as file:
                hashes[role] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        except Untrusted as error:
            raise DataError(f"{path}: {error}") from error
        news[key] = {**state, "sha256": hashes[role]}
    if news and memory is not None:
        _keep(memory, news)
    return hashes


def look_at(source: Source, thorough: bool) -> Look | None:
    """Return what the headers of a source's pictures say.

    Args:
        source: Of kind ``images``.
        thorough: Whether to read all files if it is not known; None is returned otherwise.

    Raises:
        DataError: if files are missing or cannot be read, listing them.
    """
    assert source.images is not None
    known = _known_images(source, source.images) if thorough else _kept_images(source)
    return None if known is None else known[1]


def _kept_images(source: Source) -> tuple[str, Look] | None:
    assert source.images is not None
    entry = _read_memory(_memory(source)).get(_images_key(source))
    if isinstance(entry, dict) and entry.get("state") == source.images.listing.state:
        digest, look = entry.get("sha256"), Look.from_kept(entry.get("look"))
        if isinstance(digest, str) and look is not None:
            return digest, look
    return None


def _images_key(source: Source) -> str:
    assert source.root is not None and source.images is not None
    return f"{source.images.path.relative_to(source.root).as_posix()}/*"


def _memory(source: Source) -> Path | None:
    return None if source.keeps is None else source.keeps / "fingerprints.json"


def _known_images(source: Source, images: ImageFolder) -> tuple[str, Look]:
    """Return a sha256 over the paths and contents of all image files, and what their headers say.

    Both are kept as long as no size or time changes.
    """
    memory = _memory(source)
    assert memory is not None
    known = _kept_images(source)
    if known is not None:
        return known
    listing = images.listing
    paths = sorted(path for part in listing.paths.values() for path in part)
    ready_pillow()
    alone = threading.Lock()

    def content(path: str) -> tuple[str | None, Header | str]:
        try:
            stored = picture_bytes(images.path / path)
        except OSError as error:
            return None, error.strerror or str(error)
        except Untrusted as error:
            return None, str(error)
        try:
            header: Header | str = read_header(stored, alone)
        except ValueError as error:
            header = str(error)
        return hashlib.sha256(stored).hexdigest(), header

    digest, problems, headers = hashlib.sha256(), list[str](), list[tuple[str, Header | str]]()
    with progress(f"reading {images.name}", len(paths)) as done, ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(paths), READ_AHEAD):
            part = paths[start : start + READ_AHEAD]
            for path, (found, header) in zip(part, pool.map(content, part), strict=True):
                if found is None:
                    problems.append(f"{path}: {header}")
                digest.update(f"{path} {found}\n".encode())
                headers.append((path, header))
                done(1)
    raise_problems(images.path, problems)
    look = Look.of(headers)
    _keep(memory, {_images_key(source): {"state": listing.state, "sha256": digest.hexdigest(), "look": look.kept()}})
    return digest.hexdigest(), look


def _keep(memory: Path, entries: dict[str, object]) -> None:
    text = json.dumps({**_read_memory(memory), **entries}, indent=1, sort_keys=True)
    write_atomically(memory, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _read_memory(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        memory = read_json(path, max_bytes=MEMORY_BYTES, links=True)
    except (OSError, Untrusted):
        return {}
    return memory if isinstance(memory, dict) else {}
