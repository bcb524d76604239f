"""The node-local cache of an artefact store that lies elsewhere: copies of files, checked against their manifest.

A cached file counts only if its sha256 is the manifest's; anything else is fetched again. So the folder may be removed,
filled up by other processes or damaged at any time, and needs no locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.errors import StoreError
from ddcal.store.manifest import file_fault
from ddcal.untrusted import Untrusted

logger = logging.getLogger(__name__)

FETCHES = 2
"""How often a file that does not match is fetched before the store's copy is taken for damaged."""


class LocalCache:
    """Copies of a store's files under ``<root>/<stage>/<key>/<manifest's sum>/``."""

    def __init__(self, root: Path) -> None:
        """Use ``root``, which is created at the first write."""
        self.root = root

    def folder(self, manifest: dict[str, Any]) -> Path:
        """Return where the files of an entry lie; one folder a manifest, so that files are never replaced by others."""
        return self.root / manifest["stage"] / manifest["key"] / manifest["sha256"][:16]

    def fetch(
        self, manifest: dict[str, Any], copy: Callable[[str, Path], bool], names: tuple[str, ...] | None = None
    ) -> str | None:
        """Bring an entry's files here, those that are not here already.

        Args:
            manifest: The entry's.
            copy: Copies the store's file of a name to a path; False if the store has none, `Untrusted` if it cannot
                be the manifest's.
            names: Which files; default: all.

        Returns:
            What is wrong with the store's own files, or None if every file is here and whole.

        Raises:
            StoreError: if the cache cannot be written.
        """
        folder = self.folder(manifest)
        for name in names if names is not None else manifest["files"]:
            fault = file_fault(folder, name, manifest)
            if fault is None:
                continue
            if os.path.lexists(folder / name):
                logger.warning("the cached file %s is damaged and fetched again", folder / name)
            for _ in range(FETCHES):
                fault = self._fetch(folder, name, manifest, copy)
                if fault is None:
                    break
            if fault is not None:
                return fault
        return None

    def take(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Move the files of an entry that was made here into the cache."""
        target = self.folder(manifest)
        try:
            for name in manifest["files"]:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / name, target / name)
        except OSError as error:
            raise self._unwritable(error) from error

    def scratch(self) -> Path:
        """Return a new folder for an entry that is being made; the caller removes it."""
        folder = self.root / "tmp" / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise self._unwritable(error) from error
        return folder

    def sweep(self, before: float) -> None:
        """Remove the scratch folders of killed processes, those last touched before a time in seconds since 1970."""
        for folder in (self.root / "tmp").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # its process lives and was faster
                if folder.stat().st_mtime < before:
                    shutil.rmtree(folder, ignore_errors=True)

    def remove(self, stage: str, key: str) -> None:
        """Forget an entry."""
        shutil.rmtree(self.root / stage / key, ignore_errors=True)

    def _fetch(
        self, folder: Path, name: str, manifest: dict[str, Any], copy: Callable[[str, Path], bool]
    ) -> str | None:
        path = folder / name
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not copy(name, temporary):
                return f"{name} is missing"
            fault = file_fault(folder, name, manifest, temporary.relative_to(folder).as_posix())
            if fault is None:
                os.replace(temporary, path)
            return fault
        except Untrusted as error:
            return f"{name} {error}"
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"storage.cache: {self.root} cannot be written: {error.strerror or error}")
