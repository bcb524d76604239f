"""The artefact store in a folder, on a local or a shared file system.

An entry is the folder ``<root>/<stage>/<key>/``. It is written into a temporary folder, fsynced, and renamed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ddcal.errors import StoreError
from ddcal.store.base import MAX_READ, Item, NotAFile, Store
from ddcal.store.cache import LocalCache
from ddcal.store.manifest import MANIFEST, Entry, first_fault, read_manifest, write_manifest
from ddcal.untrusted import Untrusted, open_below, plain_name, read_bytes

PROBE_BYTES = 1 << 16
"""A store must take so much before a stage is computed; none leaves less."""


class FileStore(Store):
    """Entries under one folder.

    Attributes:
        root: The folder, absolute.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        """Open or create the store.

        Raises:
            StoreError: if the root cannot be created or is not a folder.
        """
        super().__init__()
        self.root = root.expanduser().absolute()
        self.place = str(self.root)
        self.cache = None if cache is None else LocalCache(cache.expanduser().absolute())
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the artefact store {self.root} cannot be created: {error.strerror}") from error

    def has(self, stage: str, key: str) -> bool:
        """Return whether the entry is there."""
        path = self.root / stage / key / MANIFEST
        try:
            return _is_file(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error

    def publish(self, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
        """Write an entry and return it; if the key is there already, the first one stays and is returned."""
        temporary = self._own(f"tmp/{key[:16]}-{uuid.uuid4().hex}")
        try:
            temporary.mkdir(parents=True)
            manifest = write_manifest(temporary, stage, key, write)
            for name in [*manifest["files"], MANIFEST]:
                _fsync(temporary / name)
            _fsync(temporary)
            folder = self._own(f"{stage}/{key}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(temporary, folder)
            except OSError:
                if self.get(stage, key) is None:  # not "somebody was first": a damaged entry was set aside, or no room
                    os.rename(temporary, folder)
            _fsync(folder.parent)
        except OSError as error:
            raise StoreError(
                f"the artefact store {self.root} cannot be written: {error.strerror or error}; "
                "nothing of this stage was kept"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self.drop_partial(key)
        entry = self.get(stage, key)
        if entry is None:
            raise StoreError(f"the artefact store {self.root} lost entry {stage}/{key} just after it was written")
        return entry

    def remove(self, stage: str, key: str) -> None:
        """Move an entry away in one step, then delete it."""
        grave = self._own(f"tmp/pruned-{uuid.uuid4().hex}")
        try:
            grave.parent.mkdir(parents=True, exist_ok=True)
            self._own(f"{stage}/{key}").rename(grave)
            _remove(grave)
        except FileNotFoundError:
            pass  # another process has removed it
        except OSError as error:
            raise StoreError(f"the artefact {stage}/{key} cannot be removed: {error}") from error
        if self.cache is not None:
            self.cache.remove(stage, key)

    def keys(self, stage: str) -> Iterator[tuple[str, bytes | None]]:
        """Yield (key, its manifest's bytes or None); a folder without a manifest is damaged, as it came by a rename."""
        for folder in sorted((self.root / stage).glob("*")):
            try:
                content = self.read(f"{stage}/{folder.name}/{MANIFEST}")
            except NotAFile:
                content = None
            yield folder.name, content

    def fault(self, stage: str, key: str, content: bytes | None) -> str | None:
        """Return what is wrong with an entry, or None."""
        try:
            if content is None:  # missing, or no file: then this says so
                content = self.read(f"{stage}/{key}/{MANIFEST}")
            return first_fault(self.root / stage / key, read_manifest(content, stage, key))
        except (ValueError, NotAFile) as error:
            return str(error)

    def file(self, stage: str, key: str, name: str) -> Path | None:
        """Return one file of an entry, or None."""
        try:
            open_below(self.root, f"{stage}/{key}/{name}").close()
        except (OSError, Untrusted):
            return None
        return self.root / stage / key / name

    def read(self, name: str, max_bytes: int = MAX_READ) -> bytes | None:
        """Return a file's bytes, or None."""
        try:
            return read_bytes(self.root / plain_name(name), max_bytes)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Untrusted as error:
            raise NotAFile(f"{self.root / name} {error}") from error
        except OSError as error:
            raise StoreError(f"{self.root / name} cannot be read: {error.strerror or error}") from error

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file in one step."""
        path = self._own(name)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            if sync:
                _fsync(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise StoreError(f"the artefact store {self.root} cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = self._own(name)
        try:
            if os.path.lexists(path):
                _remove(path)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            raise StoreError(f"{self.root / name} cannot be removed: {error.strerror or error}") from error

    def listing(self, folder: str) -> list[Item]:
        """Return every file below a folder; one that goes meanwhile is left out, and so are links."""
        found = []
        for path in sorted((self.root / folder).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if _is_file(path):
                    status = path.stat()
                    found.append(Item(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime))
        return found

    def sweep(self, before: float, spare: Callable[[str], bool], kinds: Iterable[str]) -> None:
        """Remove temporary folders, checkpoints and leases of killed workers."""
        for folder in ("tmp", "partial", "leases"):
            if (self.root / folder).is_symlink():  # what lies there is somebody else's
                continue
            for path in (self.root / folder).glob("*"):
                with contextlib.suppress(FileNotFoundError):  # its worker lives and was faster
                    if path.lstat().st_mtime >= before or (folder == "partial" and spare(path.name.partition(".")[0])):
                        continue
                    _remove(path)

    def check(self) -> None:
        """Raise StoreError if the folder cannot be read."""
        try:
            next(os.scandir(self.root), None)
        except OSError as error:
            raise StoreError(f"the artefact store {self.root} cannot be read: {error.strerror}") from error

    def check_writable(self) -> None:
        """Raise StoreError if the folder cannot be written; a full disk takes a file, but nothing in it."""
        probe = self._own(f"tmp/probe-{uuid.uuid4().hex}")
        try:
            try:
                probe.parent.mkdir(parents=True, exist_ok=True)
                probe.write_bytes(bytes(PROBE_BYTES))
                _fsync(probe)
            finally:
                with contextlib.suppress(OSError):
                    probe.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"the artefact store {self.root} cannot be written: {error.strerror}; "
                "stages that it holds can be used, others cannot be computed"
            ) from error

    def _bring(self, manifest: dict[str, Any]) -> tuple[Path, str | None]:
        folder = self.root / manifest["stage"] / manifest["key"]
        if self.cache is None:
            return folder, first_fault(folder, manifest)
        sizes = {name: record["bytes"] for name, record in manifest["files"].items()}
        return self.cache.folder(manifest), self.cache.fetch(
            manifest, lambda name, path: _copy(folder, name, sizes[name], path)
        )

    def _set_aside(self, stage: str, key: str, content: bytes | None) -> str:
        target = self._own(f"damaged/{stage}-{key}-{uuid.uuid4().hex[:8]}")
        folder = self._own(f"{stage}/{key}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            raise StoreError(f"the damaged artefact {folder} cannot be set aside: {error}") from error
        return str(target)

    def _half_written(self, stage: str, key: str) -> bool:
        return os.path.lexists(self.root / stage / key) and not self.has(stage, key)

    def _own(self, name: str) -> Path:
        """Return the path of something that is to be written or removed: no folder on the way may lead elsewhere.

        Raises:
            StoreError: if one is a link, or the name is not a plain one.
        """
        try:
            *folders, last = plain_name(name).split("/")
        except Untrusted as error:
            raise StoreError(f"the artefact store {self.root}: {error}") from error
        path = self.root
        for part in folders:
            path /= part
            if path.is_symlink():
                raise StoreError(f"{path} is a link: nothing of the artefact store is written through it; remove it")
        return path / last


def _copy(folder: Path, name: str, size: int, target: Path) -> bool:
    """Copy a file of an entry.

    Raises:
        Untrusted: if it is no regular file, or not of this size.
    """
    try:
        source = open_below(folder, name, max_bytes=size)
    except FileNotFoundError:
        return False
    with source, target.open("xb") as stream:
        shutil.copyfileobj(source, stream)
    return True


def _is_file(path: Path) -> bool:
    """Return whether a regular file lies there, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remove(path: Path) -> None:
    """Remove whatever lies there; of a link only itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
