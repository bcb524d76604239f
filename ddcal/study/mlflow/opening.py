"""Opening the mirror of a study: where MLflow is, and where its files go."""

from __future__ import annotations

import logging
from pathlib import Path

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


def make_mirror(study: StudyConfig, directory: Path) -> Mirror | None:
    """Return the mirror of a study's ledger at `tracking_uri`, or None."""
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
    return Mirror(directory, uri, experiment, artifacts, access=access, rights=rights)
