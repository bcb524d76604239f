"""Opening an artefact store by its place: a folder or an ``s3://`` URL."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ddcal.config.places import is_url, parse_s3
from ddcal.errors import BadInput
from ddcal.store.base import Store
from ddcal.store.folder import FileStore
from ddcal.store.s3 import S3Store


def open_store(place: Path | str, cache: Path | str | None = None) -> Store:
    """Return the store at a folder (created if missing) or an ``s3://`` URL.

    Args:
        place: A folder, or ``s3://bucket/prefix[?endpoint_override=…&scheme=…&region=…]``.
        cache: A folder of this machine for copies. Default: none for a folder, for S3 one under the user's cache
            directory.

    Raises:
        BadInput: if the URL is not of that form.
        StoreError: if the folder cannot be created.
    """
    if not is_url(str(place)):
        return FileStore(Path(place), None if cache is None else Path(cache))
    try:
        parsed = parse_s3(str(place))
    except ValueError as error:
        raise BadInput(f"{place}: {error}") from error
    if cache is None:
        where = f"{parsed.endpoint_override or ''}/{parsed.bucket}/{parsed.prefix}"
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        cache = home / "ddcal" / "store" / hashlib.sha256(where.encode()).hexdigest()[:16]
    return S3Store(str(place), parsed, Path(cache))
