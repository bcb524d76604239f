"""The cache of decoded image files: uint8 arrays, written once, checked and mapped into memory by every reader."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddcal.config import DataConfig
from ddcal.data.arrays import RawData
from ddcal.data.decoding import decoded_chunks, image_side
from ddcal.data.errors import DataError
from ddcal.data.image_folders import ImageFolder, raise_problems
from ddcal.data.progress import progress
from ddcal.data.sources import Source
from ddcal.untrusted import Untrusted, open_lock, open_regular, read_json

DECODING_VERSION = 1
"""Raised whenever the same files give other bytes, unless they have another fingerprint then."""
SUM_BYTES = 2**25
"""Bytes of images under one checksum."""
SUM_THREADS = 4
MANIFEST = "decoded.json"


def stored_side(config: DataConfig, images: ImageFolder) -> int:
    """Return the side that decoded images have: ``data.resolution``, ImageNette's 128, or that of the first image.

    Raises:
        DataError: if the first image cannot be read or is not square where that is needed.
    """
    if config.resolution:
        return config.resolution
    if config.spec.one_side:
        return config.spec.side
    return image_side(images.path, images.listing.paths["train"])


def decoded_folder(config: DataConfig, source: Source, fingerprint: str) -> Path | None:
    """Return the folder with the decoded images of a source of kind ``images``; None if they are still to decode."""
    assert source.images is not None
    name = _folder_name(config, source.images, fingerprint)
    return next((place / name for place in _places(source) if (place / name / MANIFEST).is_file()), None)


def open_decoded(config: DataConfig, source: Source, fingerprint: str) -> tuple[RawData, Path]:
    """Return the images of a source of kind ``images``, mapped from the cache, and where to keep what is derived.

    What is not in the cache is decoded first, by one process a host while others wait; a cache whose checksums do not
    agree is thrown away and made anew. The cache lies in ``.ddcal`` beside the files, or in the user's cache
    (``$XDG_CACHE_HOME/ddcal``) where that cannot be written or has no room. The arrays are private copy-on-write maps:
    all processes of a host share the pages of one file.

    Raises:
        DataError: if images are missing, damaged or changed meanwhile, or there is nowhere to keep them.
    """
    assert source.images is not None
    name = _folder_name(config, source.images, fingerprint)
    for place in _places(source):
        if (raw := _opened(place / name, source.images)) is not None:
            return raw, place
    needed = len(source.images.listing) * 3 * stored_side(config, source.images) ** 2
    place = decoded_place(source, needed)
    with _locked(place / f"{name}.lock") as alone:
        raw = _opened(place / name, source.images)  # another process may have made it meanwhile
        if raw is None:
            if alone:
                for left in place.glob(f".{name}-*.tmp"):  # of a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                shutil.rmtree(place / name, ignore_errors=True)  # what somebody deleted half of
            _decode(config, source.images, place / name)
            raw = _opened(place / name, source.images)
    if raw is None:
        raise DataError(f"{place / name}: the decoded images cannot be read back: check the disk")
    return raw, place


def some_decoded(config: DataConfig, images: ImageFolder, count: int) -> np.ndarray:
    """Return at most ``count`` training images, spread over all, uint8 (n, S, S, 3); nothing is kept.

    Raises:
        DataError: if one of them is missing or damaged.
    """
    paths, problems = images.listing.paths["train"], list[str]()
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, count).astype(int))]
    side, resize = stored_side(config, images), _resize(config)
    found = list(decoded_chunks(images.path, chosen, side, resize, config.background, lambda _: None, problems))
    raise_problems(images.path, problems)
    return np.concatenate(found)


def _folder_name(config: DataConfig, images: ImageFolder, fingerprint: str) -> str:
    side = stored_side(config, images)
    identity = f"{fingerprint} side={side} resize={_resize(config)} version={DECODING_VERSION}"
    if config.background != DataConfig().background:
        identity += f" background={config.background}"
    return f"decoded-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"


def _resize(config: DataConfig) -> str | None:
    """Images of Tiny-ImageNet and of a folder that no resolution is given for must have one size."""
    return config.resize if config.resolution or config.spec.one_side else None


def _places(source: Source) -> tuple[Path, Path]:
    assert source.keeps is not None
    users = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddcal" / "decoded"
    return source.keeps, users


def decoded_place(source: Source, needed: int) -> Path:
    """Return the folder, made if it is not there, that can keep ``needed`` bytes of decoded images.

    Raises:
        DataError: if neither of the two places can, naming both.
    """
    said = []
    for place in _places(source):
        try:
            place.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(place).free
        except OSError as error:
            said.append(f"{place}: {error.strerror or error}")
            continue
        if not os.access(place, os.W_OK | os.X_OK):
            said.append(f"{place}: no permission to write")
        elif free < needed:
            said.append(f"{place}: {free / 1e9:.2f} GB free")
        else:
            return place
    raise DataError(
        f"{source.place}: there is nowhere to keep the {needed / 1e9:.2f} GB of decoded images ({'; '.join(said)}): "
        "make room, or set $XDG_CACHE_HOME to a folder that can be written"
    ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # for every trial alike


def _opened(folder: Path, images: ImageFolder) -> RawData | None:
    """Return what a folder of decoded images has, after checking every byte; None if it is not there or damaged."""
    if not (folder / MANIFEST).is_file():
        return None
    arrays, labels = {}, images.listing.labels
    try:
        manifest = read_json(folder / MANIFEST)
        for part in labels:
            path = folder / f"{part}.npy"
            if _sums(path) != manifest[part]:
                raise ValueError(f"the checksums of {path.name} do not agree")
            arrays[part] = np.load(path, mmap_mode="c", allow_pickle=False)
            if len(arrays[part]) != len(labels[part]):
                raise ValueError(f"{path.name} has {len(arrays[part])} images for {len(labels[part])} labels")
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{folder}: damaged ({error}); the images are decoded anew", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return RawData(arrays["train"], labels["train"], arrays["test"], labels["test"], images.listing.class_names)


def _sums(path: Path) -> list[int]:
    """Return a CRC-32 for every `SUM_BYTES` of a file."""

    def checksum(start: int) -> int:
        value, left = 0, SUM_BYTES
        with open_regular(path) as file:  # read rather than mapped: that would count as memory in use
            file.seek(start)
            while left and (block := file.read(min(2**20, left))):
                value, left = zlib.crc32(block, value), left - len(block)
        return value

    with ThreadPoolExecutor(SUM_THREADS) as pool:
        return list(pool.map(checksum, range(0, path.stat().st_size, SUM_BYTES)))


def _decode(config: DataConfig, images: ImageFolder, folder: Path) -> None:
    """Decode all images into ``folder``, which appears as a whole or not at all."""
    listing, side = images.listing, stored_side(config, images)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}.tmp")
    problems: list[str] = []
    try:
        temporary.mkdir()
        with progress(f"decoding {images.name}", len(listing)) as done:
            for part, paths in listing.paths.items():
                # Written, never mapped: on a full disk a write fails, and a map kills the process.
                with (temporary / f"{part}.npy").open("wb") as file:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), side, side, 3)}
                    np.lib.format.write_array_header_1_0(file, header)
                    wanted = (side, _resize(config), config.background)
                    for chunk in decoded_chunks(images.path, paths, *wanted, done, problems):
                        file.write(chunk.data)
                    file.flush()
                    os.fsync(file.fileno())
        raise_problems(images.path, problems)
        if images.list_images().state != listing.state:
            raise DataError(f"{images.path}: images changed while they were read; try again when nothing writes there")
        sums = {part: _sums(temporary / f"{part}.npy") for part in listing.paths}
        (temporary / MANIFEST).write_text(json.dumps(sums), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:  # without locks another process can be first; it has the same bytes
            if not (folder / MANIFEST).is_file():
                raise
    except OSError as error:
        raise DataError(f"{folder}: the decoded images cannot be kept ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields False where the file system has no locks."""
    import fcntl

    try:
        lock = open_lock(path)
    except Untrusted as error:
        raise DataError(f"{path} {error}: remove it") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
