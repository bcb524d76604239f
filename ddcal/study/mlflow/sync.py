"""Sending to MLflow what it does not have of a study that does not run: ``ddcal sync``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from ddcal.errors import BadInput, TrackingError
from ddcal.store.bucket import Bucket
from ddcal.study.mlflow.opening import make_mirror
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.results import StudyResults, load_study
from ddcal.study.record.rights import as_access_says
from ddcal.study.remote.bucket_lock import driver_elsewhere, refuse_living
from ddcal.study.remote.output import output_bucket
from ddcal.study.remote.parts import read_parts


def sync_study(directory: Path | str) -> str:
    """Send everything of a study's ledger that MLflow does not have, and return a sentence on it.

    The runs of a study whose driver was killed are ended as KILLED; resuming opens them again. What S3 does not have of
    a study that is kept there is not sent: on another machine those trials run again.

    Raises:
        BadInput: if the folder is not a study's, or a driver works on it or, with S3, elsewhere (and syncs by itself).
        StoreError: if S3, where the study is kept, cannot be read.
        TrackingError: if MLflow does not take it; what was sent stays sent.
    """
    results = load_study(directory)
    with as_access_says(results.study.storage.access):
        return _sync(results)


def _sync(results: StudyResults) -> str:
    lock = DriverLock(results.directory)
    try:
        bucket = output_bucket(results.study)
        if bucket is not None and (there := driver_elsewhere(bucket, results.directory)):
            refuse_living(bucket, there, take_over=False)
        mirror = make_mirror(results.study, results.directory, _copied(bucket))
        if mirror is None:
            return "this study was run with tracking.uri: none: there is nothing to send"
        events = 0
        try:
            while mirror.advance():
                events += 1
            if results.interrupted and events + mirror.cursor.offset:
                mirror.close_runs("KILLED")
        except (BadInput, TrackingError):
            raise
        except Exception as error:
            raise TrackingError(
                f"tracking.uri: MLflow at {mirror.place} does not take it: {mirror.said(error)}; "
                f"{events} events were sent, {mirror.pending} bytes of the ledger wait"
            ) from error
        if (results.directory / LEDGER).stat().st_size > mirror.cursor.offset:
            return (
                f"MLflow at {mirror.place} has all that S3 has ({events} events were new), which lacks the rest: "
                f"`ddcal resume {shlex.quote(str(results.directory))}` sends it there, then do this once more"
            )
        return f"MLflow at {mirror.place} has everything ({events} events were new)"
    finally:
        lock.release()


def _copied(bucket: Bucket | None) -> Callable[[], int] | None:
    """Return what tells how many bytes of the ledger S3 has; None for a study that is not kept there."""
    if bucket is None:
        return None
    there = len(read_parts(bucket).content)
    return lambda: there
