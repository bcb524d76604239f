"""The artefact store that a study names: where it is, and whether it can be used, before any trial runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.config.places import is_url
from ddcal.errors import ResourceError, StoreError
from ddcal.store.base import Store
from ddcal.store.opening import open_store
from ddcal.study.record.rights import make_folder


def store_place(study: StudyConfig, root: Path) -> str:
    """Return the study's store: an absolute folder, by default ``store`` in the output root, or an ``s3://`` URL."""
    if study.storage.store is None:
        return str((root / "store").expanduser().absolute())
    if is_url(study.storage.store):
        return study.storage.store
    return str(Path(study.storage.store).expanduser().absolute())


def cache_place(study: StudyConfig) -> str | None:
    """Return the folder of copies that the study names, absolute, or None."""
    cache = study.storage.cache
    return None if cache is None else str(Path(cache).expanduser().absolute())


def study_store(study: StudyConfig, root: Path) -> Store:
    """Return the study's store, opened; if it is made now, with the rights that ``storage.access`` says.

    Raises:
        StoreError: if its folder cannot be created.
    """
    place = store_place(study, root)
    if not is_url(place):
        with suppress(OSError):  # opening it says so
            make_folder(Path(place), study.storage.access, shared=study.storage.store is not None)
    return open_store(place, cache_place(study))


def check_remote_store(study: StudyConfig) -> None:
    """Refuse a store on S3 that cannot be read, before any trial runs.

    Raises:
        ResourceError: if the bucket is missing, cannot be reached, or refuses the credentials.
    """
    if study.storage.store is None or not is_url(study.storage.store):
        return
    try:
        open_store(study.storage.store, cache_place(study)).check()
    except StoreError as error:
        raise ResourceError(f"storage.store: {error}") from error
