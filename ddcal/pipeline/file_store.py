"""The artefact store in a folder, on a local or a shared file system.

An entry is the folder ``<root>/<stage>/<key>/``. It is written into a temporary folder, fsynced, and renamed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddcal.errors import StoreError
from ddcal.pipeline.cache import LocalCache
from ddcal.pipeline.manifest import MANIFEST, Entry, first_fault, read_manifest, write_manifest
from ddcal.pipeline.store import Item, Store


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
        return (self.root / stage / key / MANIFEST).exists()

    def publish(self, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
        """Write an entry and return it; if the key is there already, the first one stays and is returned."""
        temporary = self.root / "tmp" / f"{key[:16]}-{uuid.uuid4().hex}"
        try:
            temporary.mkdir(parents=True)
            manifest = write_manifest(temporary, stage, key, write)
            for name in [*manifest["files"], MANIFEST]:
                _fsync(temporary / name)
            _fsync(temporary)
            folder = self.root / stage / key
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(temporary, folder)
            except OSError:
                if self.get(stage, key) is None:  # not "somebody was first": a damaged entry was set aside, or no room
                    os.rename(temporary, folder)
            _fsync(folder.parent)
        except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
            raise StoreError(
                f"the artefact store {self.root} cannot be written: {getattr(error, 'strerror', None) or error}; "
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
        grave = self.root / "tmp" / f"pruned-{uuid.uuid4().hex}"
        try:
            grave.parent.mkdir(parents=True, exist_ok=True)
            (self.root / stage / key).rename(grave)
            shutil.rmtree(grave)
        except OSError as error:
            raise StoreError(f"the artefact {stage}/{key} cannot be removed: {error}") from error
        if self.cache is not None:
            self.cache.remove(stage, key)

    def keys(self, stage: str) -> Iterator[tuple[str, bytes | None]]:
        """Yield (key, its manifest's bytes or None); a folder without a manifest is damaged, as it came by a rename."""
        for folder in sorted((self.root / stage).glob("*")):
            yield folder.name, self.read(f"{stage}/{folder.name}/{MANIFEST}")

    def fault(self, stage: str, key: str, content: bytes | None) -> str | None:
        """Return what is wrong with an entry, or None."""
        try:
            return first_fault(self.root / stage / key, read_manifest(content, stage, key))
        except ValueError as error:
            return str(error)

    def file(self, stage: str, key: str, name: str) -> Path | None:
        """Return one file of an entry, or None."""
        path = self.root / stage / key / name
        return path if path.is_file() else None

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.root / name} cannot be read: {error.strerror or error}") from error

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file in one step."""
        path = self.root / name
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
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.root / name} cannot be removed: {error.strerror or error}") from error

    def listing(self, folder: str) -> list[Item]:
        """Return every file below a folder; one that goes meanwhile is left out."""
        found = []
        for path in sorted((self.root / folder).rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    status = path.stat()
                    found.append(Item(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime))
        return found

    def sweep(self, before: float, spare: Callable[[str], bool]) -> None:
        """Remove temporary folders, checkpoints and leases of killed workers."""
        for folder in ("tmp", "partial", "leases"):
            for path in (self.root / folder).glob("*"):
                with contextlib.suppress(FileNotFoundError):  # its worker lives and was faster
                    if path.stat().st_mtime >= before or (folder == "partial" and spare(path.name.partition(".")[0])):
                        continue
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def check(self) -> None:
        """Raise StoreError if the folder cannot be read."""
        try:
            next(os.scandir(self.root), None)
        except OSError as error:
            raise StoreError(f"the artefact store {self.root} cannot be read: {error.strerror}") from error

    def check_writable(self) -> None:
        """Raise StoreError if the folder cannot be written."""
        probe = self.root / "tmp" / f"probe-{uuid.uuid4().hex}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"the artefact store {self.root} cannot be written: {error.strerror}; "
                "stages that it holds can be used, others cannot be computed"
            ) from error

    def _bring(self, manifest: dict[str, Any]) -> tuple[Path, str | None]:
        folder = self.root / manifest["stage"] / manifest["key"]
        if self.cache is None:
            return folder, first_fault(folder, manifest)
        return self.cache.folder(manifest), self.cache.fetch(manifest, lambda name, path: _copy(folder / name, path))

    def _set_aside(self, stage: str, key: str, content: bytes | None) -> str:
        target = self.root / "damaged" / f"{stage}-{key}-{uuid.uuid4().hex[:8]}"
        folder = self.root / stage / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError as error:
            raise StoreError(f"the damaged artefact {folder} cannot be set aside: {error}") from error
        return str(target)

    def _half_written(self, stage: str, key: str) -> bool:
        return (self.root / stage / key).exists() and not self.has(stage, key)


def _copy(source: Path, target: Path) -> bool:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        if target.parent.is_dir():
            return False
        raise
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
