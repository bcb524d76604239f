"""The artefact store: finished stages by key, on a file system.

An entry is a folder ``<root>/<stage>/<key>/`` of files and a ``manifest.json`` with the sha256 and size of each, and a
sha256 of itself. It is written into a temporary folder, fsynced, and renamed; so it is there in full or not at all.
Publishing a key twice keeps the first. An entry whose files do not match its manifest is set aside under
``<root>/damaged/`` and recomputed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddcal.errors import StoreError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Entry:
    """A finished stage.

    Attributes:
        stage: The stage's name.
        key: Its key.
        folder: Where its files lie.
        meta: What the stage recorded: curve, seconds, versions…
        files: Relative file name → sha256 in hex.
    """

    stage: str
    key: str
    folder: Path
    meta: dict[str, Any]
    files: dict[str, str]


class Store:
    """Entries under one root; safe for several processes that publish the same keys."""

    def __init__(self, root: Path | str) -> None:
        """Open or create the store.

        Raises:
            StoreError: if the root cannot be created or is not a folder.
        """
        self.root = Path(root).absolute()
        self._verified: dict[str, Entry] = {}
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"the artefact store {self.root} cannot be created: {error.strerror}") from error

    def get(self, stage: str, key: str) -> Entry | None:
        """Return the entry, or None if it is not there; every file is verified once a process."""
        folder = self._folder(stage, key)
        known = self._verified.get(key)
        if known is not None and folder.exists():
            return known
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except FileNotFoundError:
            if folder.exists():
                self._set_aside(stage, key, "manifest.json is missing")
            return None
        except (OSError, ValueError) as error:
            self._set_aside(stage, key, f"manifest.json is unreadable ({error})")
            return None
        fault = first_fault(folder, manifest)
        if fault:
            self._set_aside(stage, key, fault)
            return None
        files = {name: record["sha256"] for name, record in manifest["files"].items()}
        entry = Entry(stage, key, folder, manifest["meta"], files)
        self._verified[key] = entry
        return entry

    def publish(self, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
        """Write an entry and return it; if the key is there already, the first one stays and is returned.

        Args:
            stage: The stage's name.
            key: Its key.
            write: Puts the files into the folder it is given and returns the entry's ``meta`` (JSON values).

        Raises:
            StoreError: if the disk is full or the store cannot be written.
        """
        temporary = self.root / "tmp" / f"{key[:16]}-{uuid.uuid4().hex}"
        try:
            temporary.mkdir(parents=True)
            meta = write(temporary)
            names = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
            files = {
                name: {"sha256": file_sha256(temporary / name), "bytes": (temporary / name).stat().st_size}
                for name in names
            }
            manifest = {"stage": stage, "key": key, "created": time.time(), "meta": meta, "files": files}
            manifest["sha256"] = _manifest_sha256(manifest)
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
            for name in [*names, MANIFEST]:
                _fsync(temporary / name)
            _fsync(temporary)
            folder = self._folder(stage, key)
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
        self.partial_path(key).unlink(missing_ok=True)
        entry = self.get(stage, key)
        if entry is None:
            raise StoreError(f"the artefact store {self.root} lost entry {stage}/{key} just after it was written")
        return entry

    def partial_path(self, key: str) -> Path:
        """Return where the checkpoint of an unfinished stage lies."""
        return self.root / "partial" / f"{key}.pt"

    def save_partial(self, key: str, state: dict[str, Any]) -> None:
        """Keep the state of an unfinished stage (tensors and plain values), replacing the last one in one step.

        Raises:
            StoreError: if it cannot be written.
        """
        import torch

        path = self.partial_path(key)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = io.BytesIO()
            torch.save(state, stream)
            content = stream.getvalue()
            temporary.write_bytes(hashlib.sha256(content).digest() + content)  # torch.load itself checks no sum
            _fsync(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise StoreError(f"the checkpoint {path} cannot be written: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def load_partial(self, key: str) -> dict[str, Any] | None:
        """Return the state of an unfinished stage, or None; a damaged one is dropped with a warning."""
        import torch

        path = self.partial_path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"the checkpoint {path} cannot be read: {error}") from error
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            logger.warning("the checkpoint %s is damaged (its sha256 does not match) and dropped", path)
            path.unlink(missing_ok=True)
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def _set_aside(self, stage: str, key: str, fault: str) -> None:
        target = self.root / "damaged" / f"{stage}-{key}-{uuid.uuid4().hex[:8]}"
        logger.warning("artefact %s/%s is damaged (%s): set aside as %s and computed again", stage, key, fault, target)
        self._verified.pop(key, None)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self._folder(stage, key), target)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"the damaged artefact {self._folder(stage, key)} cannot be set aside: {error}") from error


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest_sha256(manifest: dict[str, Any]) -> str:
    """Return the sha256 of everything in the manifest but the sum itself: it holds numbers that files do not."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def first_fault(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Return the first thing that is wrong with an entry after reading all of its files, or None if it is whole."""
    try:
        if manifest["sha256"] != _manifest_sha256(manifest):
            return "manifest.json does not match its own sha256"
        for name, record in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != record["bytes"] or file_sha256(path) != record["sha256"]:
                return f"{name} does not match its sha256"
        return None if isinstance(manifest["meta"], dict) else "manifest.json has no meta"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (KeyError, TypeError, AttributeError, OSError) as error:
        return f"manifest.json is not in the format ({error})"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
