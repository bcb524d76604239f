"""The artefact store on S3, through ``pyarrow.fs``: files first, manifest last.

An entry is there when ``<prefix>/<stage>/<key>/manifest.json`` is; its files lie beside it under the first digits of
their own sha256. S3 (through pyarrow) cannot write on a condition, so two publishers of one key may both find no
manifest and both write theirs. That does no harm: a stage is a pure function of its key, and even where a GPU gives
other last bits each manifest names its own files, which nobody overwrites with other bytes.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal.config.places import S3Place
from ddcal.errors import MAKE_WRITABLE, StoreError
from ddcal.store.base import MAX_READ, Item, NotAFile, Store
from ddcal.store.cache import LocalCache
from ddcal.store.manifest import MANIFEST, Entry, read_manifest, write_manifest
from ddcal.untrusted import Untrusted, plain_name, read_at_most

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 5.0, 30.0, 3
"""How long S3 is waited for, at most, and how often it is asked; then it is an error."""

LEFTOVER_SECONDS = 86400.0
"""Files without a manifest may belong to an upload under way until they are as old as this."""

READERS = 16
"""How many manifests are read at a time when the whole store is listed."""

_CHUNK = 1 << 22
_REFUSED = "the credentials are refused"
_CAUSES = {
    "NETWORK_CONNECTION": "it cannot be reached",
    "EndpointConnectionError": "it cannot be reached",
    "Timeout": "it does not answer",
    "NO_SUCH_BUCKET": "there is no such bucket",
    "NoSuchBucket": "there is no such bucket",
    "ACCESS_DENIED": _REFUSED,
    "AccessDenied": _REFUSED,
    "INVALID_ACCESS_KEY_ID": _REFUSED,
    "InvalidAccessKeyId": _REFUSED,
    "SIGNATURE_DOES_NOT_MATCH": _REFUSED,
    "SignatureDoesNotMatch": _REFUSED,
    "NoCredentials": "there are no credentials in the environment or in ~/.aws",
}


class S3Store(Store):
    """Entries under a prefix of a bucket, read through a cache on this machine."""

    def __init__(self, url: str, place: S3Place, cache: Path) -> None:
        """Prepare; nothing is connected yet.

        Args:
            url: The store's URL, for messages and other processes.
            place: What the URL says.
            cache: The folder of copies.
        """
        super().__init__()
        self.place, self.bucket = url, place.bucket
        self.cache = LocalCache(cache.expanduser().absolute())
        self._at = place
        self._base = f"{place.bucket}/{place.prefix}".rstrip("/")
        self._connected: S3FileSystem | None = None

    def has(self, stage: str, key: str) -> bool:
        """Return whether the entry is there."""
        from pyarrow.fs import FileType

        with self._errors("read"):
            info = self._files.get_file_info(f"{self._base}/{stage}/{key}/{MANIFEST}")
            return bool(info.type == FileType.File)

    def publish(self, stage: str, key: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
        """Write an entry and return it; if the key is there already, the first one stays and is returned."""
        assert self.cache is not None
        folder = self.cache.scratch()
        try:
            try:
                manifest = write_manifest(folder, stage, key, write)
            except OSError as error:
                raise StoreError(
                    f"storage.cache: {self.cache.root} cannot be written: {error.strerror or error}; "
                    "nothing of this stage was kept"
                ) from error
            entry = self.get(stage, key)
            if entry is None:
                for name in manifest["files"]:
                    self._upload(folder / name, f"{stage}/{key}/{_file_object(name, manifest)}")
                entry = self.get(stage, key)
            if entry is None:
                self._upload(folder / MANIFEST, f"{stage}/{key}/{MANIFEST}")
                self.cache.take(folder, manifest)
                entry = self.get(stage, key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if entry is None:
            raise StoreError(f"the artefact store {self.place} lost entry {stage}/{key} just after it was written")
        self.drop_partial(key)
        return entry

    def remove(self, stage: str, key: str) -> None:
        """Remove an entry, the manifest first."""
        self.delete(f"{stage}/{key}/{MANIFEST}")
        with self._errors("written"):
            _quietly(self._files.delete_dir, f"{self._base}/{stage}/{key}")
        if self.cache is not None:
            self.cache.remove(stage, key)

    def keys(self, stage: str) -> Iterator[tuple[str, bytes | None]]:
        """Yield (key, its manifest's bytes); files without one may be an upload under way, so they are left out."""
        found = sorted(item.name for item in self.listing(stage) if item.name.endswith(f"/{MANIFEST}"))
        names = [name for name in found if name.count("/") == 2]
        with ThreadPoolExecutor(READERS) as pool:
            for name, content in zip(names, pool.map(self.read, names), strict=True):
                if content is not None:
                    yield name.split("/")[1], content

    def fault(self, stage: str, key: str, content: bytes | None) -> str | None:
        """Return what is wrong with an entry, or None; every file is read from S3, none from the cache."""
        assert self.cache is not None
        scratch = self.cache.scratch()
        try:
            if content is None:
                content = self.read(f"{stage}/{key}/{MANIFEST}")
            manifest = read_manifest(content, stage, key)
            return LocalCache(scratch).fetch(manifest, self._copier(manifest))
        except (ValueError, NotAFile) as error:
            return str(error)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def file(self, stage: str, key: str, name: str) -> Path | None:
        """Return one file of an entry, or None if it is not there or damaged."""
        assert self.cache is not None
        try:
            manifest = read_manifest(self.read(f"{stage}/{key}/{MANIFEST}"), stage, key)
        except (ValueError, NotAFile):
            return None
        if name not in manifest["files"] or self.cache.fetch(manifest, self._copier(manifest), (name,)) is not None:
            return None
        return self.cache.folder(manifest) / name

    def read(self, name: str, max_bytes: int = MAX_READ) -> bytes | None:
        """Return an object's bytes, or None."""
        where = self._object(name)
        with self._errors("read"):
            try:
                with self._files.open_input_stream(where) as stream:
                    content = read_at_most(stream, max_bytes + 1)
            except FileNotFoundError:
                return None
        if len(content) > max_bytes:
            raise NotAFile(f"{self.place}: {name} is larger than {max_bytes} bytes")
        return content

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write an object, which S3 shows when it is complete."""
        with self._errors("written"), self._files.open_output_stream(self._object(name)) as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._errors("written"):
            _quietly(self._files.delete_file, self._object(name))

    def listing(self, folder: str) -> list[Item]:
        """Return every object below a prefix."""
        from pyarrow.fs import FileSelector, FileType

        with self._errors("read"):
            selector = FileSelector(f"{self._base}/{folder}", recursive=True, allow_not_found=True)
            found = [info for info in self._files.get_file_info(selector) if info.type == FileType.File]
        start = len(self._base) + 1
        items = [Item(info.path[start:], info.size, (info.mtime_ns or 0) / 1e9) for info in found]
        return sorted(items, key=lambda item: item.name)

    def sweep(self, before: float, spare: Callable[[str], bool], kinds: Iterable[str]) -> None:
        """Remove checkpoints of killed workers, and files of which the manifest never came."""
        assert self.cache is not None
        self.cache.sweep(before)
        for item in self.listing("partial"):
            if item.modified < before and not spare(Path(item.name).name.partition(".")[0]):
                self.delete(item.name)
        for item in self.listing("tmp"):
            if item.modified < before:
                self.delete(item.name)
        for stage in kinds:
            items = self.listing(stage)
            entries = {item.name.split("/")[1] for item in items if item.name.endswith(f"/{MANIFEST}")}
            for item in items:
                if item.modified < before and item.name.split("/")[1] not in entries:
                    self.delete(item.name)

    def check(self) -> None:
        """Raise StoreError if the bucket is not there, not reachable or not to be read with these credentials."""
        from pyarrow.fs import FileSelector, FileType

        with self._errors("read"):
            if self._files.get_file_info(self.bucket).type == FileType.NotFound:
                raise StoreError(f"the artefact store {self.place} cannot be read: there is no bucket {self.bucket}")
            self._files.get_file_info(FileSelector(f"{self._base}/references", allow_not_found=True))

    def check_writable(self) -> None:
        """Raise StoreError if an object cannot be written."""
        name = f"tmp/probe-{uuid.uuid4().hex}"
        try:
            self.write(name, b"ddcal")
            self.delete(name)
        except StoreError as error:
            said = f"{error}; stages that it holds can be used, others cannot be computed"
            raise StoreError(said, error.cure) from error

    def _bring(self, manifest: dict[str, Any]) -> tuple[Path, str | None]:
        assert self.cache is not None
        return self.cache.folder(manifest), self.cache.fetch(manifest, self._copier(manifest))

    def _set_aside(self, stage: str, key: str, content: bytes | None) -> str:
        name, target = f"{stage}/{key}/{MANIFEST}", f"damaged/{stage}-{key}-{uuid.uuid4().hex[:8]}.json"
        if content is not None and self.read(name) == content:  # else another process was faster
            self.write(target, content)
            self.delete(name)  # its files are written over when the stage is published again
        return f"{self.place}: {target}"

    def _half_written(self, stage: str, key: str) -> bool:
        return False

    def _copier(self, manifest: dict[str, Any]) -> Callable[[str, Path], bool]:
        def copy(name: str, path: Path) -> bool:
            source = f"{self._base}/{manifest['stage']}/{manifest['key']}/{_file_object(name, manifest)}"
            with self._errors("read"):
                try:
                    stream = self._files.open_input_stream(source)
                except FileNotFoundError:
                    return False
            left = manifest["files"][name]["bytes"]
            with stream, path.open("xb") as target:
                while True:
                    with self._errors("read"):
                        chunk = stream.read(_CHUNK)
                    if not chunk:
                        return True
                    left -= len(chunk)
                    if left < 0:
                        raise Untrusted("is larger than its manifest says")
                    target.write(chunk)

        return copy

    def _upload(self, path: Path, name: str) -> None:
        with (
            path.open("rb") as source,
            self._errors("written"),
            self._files.open_output_stream(f"{self._base}/{name}") as target,
        ):
            while chunk := source.read(_CHUNK):
                target.write(chunk)

    def _object(self, name: str) -> str:
        """Return the place of a file in the bucket.

        Raises:
            StoreError: if the name would lead out of the store.
        """
        try:
            return f"{self._base}/{plain_name(name)}"
        except Untrusted as error:
            raise StoreError(f"the artefact store {self.place}: {error}") from error

    @property
    def _files(self) -> S3FileSystem:
        if self._connected is None:
            from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

            at = self._at
            options = {"endpoint_override": at.endpoint_override} if at.endpoint_override else {}
            self._connected = S3FileSystem(
                region=at.region,
                scheme=at.scheme,
                connect_timeout=CONNECT_SECONDS,
                request_timeout=REQUEST_SECONDS,
                retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
                allow_delayed_open=True,  # a small object in one request instead of three
                **options,
            )
        return self._connected

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = re.sub(r" ?\(Request ID: [^)]*\)", "", " ".join(str(error).split()))
            code = re.search(r"AWS Error (\w+)", text) or re.search(r"(?:Exception|Error)[: ]+(\w+)", text)
            detail = text[code.start() :] if code else text
            raise refused_by_s3(f"the artefact store {self.place}", done, text, detail) from error


def refused_by_s3(place: str, done: str, text: str, detail: str) -> StoreError:
    """Return an error that says in plain words what S3 does not do.

    Args:
        place: What cannot be used, for the message.
        done: What cannot be done with it: ``read`` or ``written``.
        text: All that S3's client says, in which the cause is looked for.
        detail: What of it is repeated.
    """
    cause = next((said for name, said in _CAUSES.items() if name in text), None)
    said = f"{cause} ({detail[:200]})" if cause else detail[:200]
    cure = MAKE_WRITABLE if cause == _REFUSED and done == "written" else None
    return StoreError(f"{place} cannot be {done}: {said}", cure)


def _file_object(name: str, manifest: dict[str, Any]) -> str:
    """Return a file's name below its entry: other bytes have another name, so no publisher spoils another's entry."""
    return f"{manifest['files'][name]['sha256'][:16]}/{name}"


def _quietly(delete: Callable[[str], None], path: str) -> None:
    with suppress(FileNotFoundError):
        delete(path)
