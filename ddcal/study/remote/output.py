"""A study's folder and its place on S3 brought together: as a driver begins, and for whoever only looks.

The ledger alone is needed: the study's file and its tables are written anew from it, the searcher's journal is built
from it, and MLflow is told by it.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.config.places import parse_s3
from ddcal.config.study import OUTPUT, Access
from ddcal.errors import BadInput, ResourceError, StoreError
from ddcal.store.bucket import Bucket, check_client
from ddcal.study.mlflow.cursor import CURSOR
from ddcal.study.record.confirmation import CONFIRMATION
from ddcal.study.record.folder_files import write_study_file
from ddcal.study.record.ledger import LEDGER, DamagedLedger, begun, read_lines
from ddcal.study.record.lock import LOCK, DriverLock
from ddcal.study.record.repair import free_name
from ddcal.study.record.results import load_study
from ddcal.study.record.rights import as_access_says, make_folder
from ddcal.study.remote.bucket_lock import BucketLock, driver_elsewhere
from ddcal.study.remote.copying import FILES, Copying
from ddcal.study.remote.parts import FOLDER, READERS, Parts, count_parts, read_parts
from ddcal.untrusted import Untrusted, plain_name

logger = logging.getLogger(__name__)

PRIVATE: Access = "private"

FETCHED = ".fetched"
"""A folder in the study's, where a ledger from S3 is looked at before it counts."""


def output_bucket(study: StudyConfig) -> Bucket | None:
    """Return where a study is kept on S3, after a look at whether that can be reached; None if it is kept in a folder.

    Raises:
        ResourceError: if the bucket is missing, cannot be reached, or refuses the credentials.
    """
    if not study.storage.on_s3:
        return None
    return _reached(Bucket.at(study.storage.output, study.name), "storage.output: ")


def _reached(bucket: Bucket, key: str = "") -> Bucket:
    """Return the bucket after a look at it: one that is refused now is the caller's input, not a failure on the way.

    Args:
        bucket: The study's place.
        key: What the message begins with.

    Raises:
        ResourceError: as `output_bucket`.
    """
    check_client()
    try:
        bucket.check()
    except StoreError as error:
        raise ResourceError(f"{key}{error}") from error
    return bucket


def refuse_begun(study: StudyConfig) -> None:
    """Raise ResourceError if S3 has a study of this name already."""
    bucket = output_bucket(study)
    if bucket is not None and count_parts(bucket):
        raise ResourceError(_there_already(bucket))


def fetch_begun(study: StudyConfig, directory: Path, *, take_over: bool = False) -> bool:
    """Bring a folder up to what S3 has of a study, if it is kept there; return whether it has begun then.

    Args:
        study: The study.
        directory: Its folder; it may have begun, and a driver elsewhere have gone on with it since.
        take_over: As of `open_copying`.

    Raises:
        BadInput: as `meet`, or if a driver works on the folder.
        ResourceError: if S3 cannot be reached.
    """
    bucket = output_bucket(study)
    if bucket is not None:
        parts = read_parts(bucket)
        if not _whole_lines(directory / LEDGER).startswith(parts.content):
            with as_access_says(study.storage.access):
                make_folder(directory.parent, study.storage.access, shared=True)
                make_folder(directory, study.storage.access)
                lock = DriverLock(directory, take_over=take_over)
                try:
                    meet(bucket, directory, parts)
                finally:
                    lock.release()
    return begun(directory)


def open_copying(study: StudyConfig, directory: Path, *, fresh: bool, take_over: bool = False) -> Copying | None:
    """Take the study's lock on S3 and bring its folder up to what S3 has; None if it is kept in a folder.

    Args:
        study: The study.
        directory: Its folder, locked by this driver.
        fresh: Whether the study is to begin.
        take_over: Whether the scheduler is asked about a driver of another machine.

    Raises:
        BadInput: if another driver is at work, the folder and S3 have different ledgers, or that on S3 is damaged.
        StoreError: if S3 cannot be reached.
    """
    bucket = output_bucket(study)
    if bucket is None:
        return None
    lock = BucketLock(bucket, directory, take_over=take_over)
    try:
        there = read_parts(bucket)
        if fresh and there.count:
            raise ResourceError(_there_already(bucket))
        meet(bucket, directory, there)
    except BaseException:
        lock.release()
        raise
    return Copying(bucket, directory, lock, there)


def meet(bucket: Bucket, directory: Path, there: Parts) -> bool:
    """Bring a study's folder up to what S3 has; return whether that was not what the folder had.

    A folder that is ahead stays as it is: the driver sends the rest. Where a driver has gone on elsewhere, from what S3
    had, the folder's own last lines are no part of the study any more: they are kept beside its ledger.

    Raises:
        BadInput: if the folder's study is another one.
        DamagedLedger: if the lines from S3 are no ledger.
    """
    here = _whole_lines(directory / LEDGER)
    if here.startswith(there.content):
        return False
    pairs = zip(here.split(b"\n")[:-1], there.content.split(b"\n"), strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    if here and not same:
        raise BadInput(
            f"{directory} and {bucket.url} have studies of the same name that were begun apart: take another --output, "
            "or another name"
        )
    if lost := here.count(b"\n") - same:
        aside = free_name(directory, f"{LEDGER}.left-behind")
        shutil.copy2(directory / LEDGER, aside)
        logger.warning(
            "a driver elsewhere has gone on with this study: the last %d lines of the ledger in %s are no part of it, "
            "and are kept as %s",
            *(lost, directory, aside.name),
        )
    _install(bucket, directory, there.content)
    return True


def fetch_study(study: StudyConfig | str, output: Path | None = None) -> tuple[Path, str]:
    """Bring all that S3 has of a study into its folder on this machine, logs and pictures too.

    Args:
        study: A study that is kept on S3, or its place there: a URL whose prefix ends with its name.
        output: The output root; default: ``runs``.

    Returns:
        The folder, and in words what it has now.

    Raises:
        BadInput: if there is none, or as `meet`, or if a driver works on the folder.
        ResourceError: as `output_bucket`.
        StoreError: if S3 cannot be read any more.
    """
    if isinstance(study, str):
        bucket, access = _reached(Bucket.at(study)), PRIVATE
        name = parse_s3(study).prefix.rpartition("/")[2]
    else:
        place = output_bucket(study)
        if place is None:
            raise BadInput(
                f"storage.output of {study.name} is {study.storage.output}, a folder: there is nothing to fetch"
            )
        name, bucket, access = study.name, place, study.storage.access
    there = read_parts(bucket)
    if not name or not there.count:
        raise BadInput(f"{bucket.url} has no study: its ledger would be in {bucket.url}/{FOLDER}")
    directory = Path(OUTPUT if output is None else output).absolute() / name
    with as_access_says(access):
        make_folder(directory.parent, access, shared=True)
        make_folder(directory, access)
        lock = DriverLock(directory)
        try:
            before = _whole_lines(directory / LEDGER).count(b"\n")
            meet(bucket, directory, there)
            _bring_files(bucket, directory, ahead=before > there.lines)
            elsewhere = driver_elsewhere(bucket, directory) is not None
            results = load_study(directory)
            results.write()
        finally:
            lock.release()
    ended = sum(trial.outcome is not None for trial in results.records)
    ahead = f"; {before - there.lines} lines are here alone: `ddcal resume` sends them" * (before > there.lines)
    driven = f"; by {bucket.where(LOCK)} a driver elsewhere is at work on it" * elsewhere
    return directory, f"{ended} of {results.study.search.trials} trials finished{driven}{ahead}"


def send_rest(study: StudyConfig, directory: Path, *, take_over: bool = False) -> None:
    """Send what S3 lacks of a study that has ended; nothing where it is kept in a folder.

    Raises:
        BadInput, ResourceError, StoreError: as `open_copying` and `Copying.begin`.
    """
    if not study.storage.on_s3:
        return
    lock = DriverLock(directory, take_over=take_over)
    try:
        copying = open_copying(study, directory, fresh=False, take_over=take_over)
        if copying is not None:
            copying.begin()
            copying.close()
            if copying.missing is not None:
                raise StoreError(copying.missing)
    finally:
        lock.release()


def send_file(study: StudyConfig, directory: Path, name: str) -> None:
    """Send a file of a study that does not run, such as its confirmation; nothing where it is kept in a folder.

    Raises:
        ResourceError, StoreError: if S3 cannot be reached or refuses.
    """
    bucket = output_bucket(study)
    if bucket is not None:
        bucket.write(f"{FILES}/{name}", (directory / name).read_bytes())


def _there_already(bucket: Bucket) -> str:
    return (
        f"{bucket.url} has a study: `ddcal run --resume` goes on with it; to begin anew take another name or another "
        "storage.output, or move that one away (finished stages stay in the store either way)"
    )


def _whole_lines(ledger: Path) -> bytes:
    try:
        content = ledger.read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _install(bucket: Bucket, directory: Path, content: bytes) -> None:
    """Put a ledger into a study's folder in one step, once it is known to be whole."""
    fetched = directory / FETCHED
    fetched.mkdir(exist_ok=True)
    try:
        with (fetched / LEDGER).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        for line in read_lines(fetched):
            if line.fault is not None:
                raise DamagedLedger(f"{bucket.url}: line {line.number} of the ledger: {line.fault}; {line.lost}")
        confirmation = bucket.read(f"{FILES}/{CONFIRMATION}")
        if confirmation is not None:
            _write(directory / CONFIRMATION, confirmation.content)
        (directory / CURSOR).unlink(missing_ok=True)  # MLflow may have more than it says: it is looked through
        os.replace(fetched / LEDGER, directory / LEDGER)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    write_study_file(load_study(directory).study, directory)


def _bring_files(bucket: Bucket, directory: Path, *, ahead: bool) -> None:
    """Write what S3 has besides the ledger into a study's folder, but over nothing that is newer there.

    Args:
        bucket: The study's place.
        directory: Its folder.
        ahead: Whether the ledger there is longer than S3's, and so what was drawn from it.
    """
    names = [name.removeprefix(f"{FILES}/") for name in bucket.names(FILES)]
    with ThreadPoolExecutor(READERS) as pool:
        for name, found in zip(names, pool.map(lambda one: bucket.read(f"{FILES}/{one}"), names), strict=True):
            if found is not None and _is_ours(name) and not (ahead and (directory / name).exists()):
                _write(directory / name, found.content)


def _is_ours(name: str) -> bool:
    """Whether a file from S3 may be written into a study's folder: one that `Copying` sends."""
    try:
        first, *rest = plain_name(name).split("/")
    except Untrusted:
        return False
    of_a_folder = (first == "logs" and name.endswith(".log")) or (first == "figures" and name.endswith(".png"))
    return name == CONFIRMATION or bool(rest and of_a_folder)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
