"""Opening the mirror of a study: where MLflow is, and where its files go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.study.mlflow.client import (
    artifact_location,
    database_rights,
    sqlite_path,
    tracking_uri,
    without_password,
)
from ddcal.study.mlflow.mirror import Mirror
from ddcal.study.record.ledger import LEDGER

logger = logging.getLogger(__name__)


class MirrorOfCopied(Mirror):
    """Tells MLflow what S3 has of the ledger alone: what a machine takes with it was never told, and is told once."""

    def __init__(self, copied: Callable[[], int], *arguments: Any, **options: Any) -> None:
        """Prepare as a `Mirror`; ``copied`` returns how many bytes of the ledger S3 has."""
        self._copied = copied
        super().__init__(*arguments, **options)

    @property
    def pending(self) -> int:
        """How many bytes of the ledger MLflow does not have yet, and may have."""
        return min(super().pending, self._copied() - self.cursor.offset)


def make_mirror(study: StudyConfig, directory: Path, copied: Callable[[], int] | None = None) -> Mirror | None:
    """Return the mirror of a study's ledger at `tracking_uri`, or None.

    Args:
        study: The study.
        directory: Its folder.
        copied: Returns how many bytes of its ledger S3 has; None for a study that is kept in its folder alone.
    """
    root = directory.parent
    uri = tracking_uri(study, root)
    if uri is None:
        return None
    if without_password(study) is not study:
        logger.warning(
            "%s: an earlier ddcal wrote the password of tracking.uri into it; it is not written again, but change it",
            directory / LEDGER,
        )
    experiment = study.tracking.experiment or study.name
    served = uri.startswith(("http:", "https:"))  # a server keeps artifacts itself; a database would put them here
    database = sqlite_path(uri)  # its artifacts lie beside it: whichever root is moved, the others find theirs
    artifacts = None if served else artifact_location(root if database is None else database.parent, experiment)
    access, rights = study.storage.access, database_rights(study)
    if copied is None:
        return Mirror(directory, uri, experiment, artifacts, access=access, rights=rights)
    return MirrorOfCopied(copied, directory, uri, experiment, artifacts, access=access, rights=rights)
