"""MLflow's model registry: an export as a registered model version, linked to the trial's run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from ddcal.errors import BadInput, TrackingError
from ddcal.store.base import file_sha256
from ddcal.study.export.layout import LOCK
from ddcal.study.export.models import PLACES, PREPROCESSING
from ddcal.study.mlflow.client import connect, database_rights, one_line, tracking_uri
from ddcal.study.mlflow.moved import bring_home
from ddcal.study.record.confirmation import confirmed_word
from ddcal.study.record.results import StudyResults, Trial

FOLDER = "export"
"""Where the export's files lie among the artifacts of the trial's run; with models, its digest follows the name."""

DIGEST = "ddcal.export"
"""The tag with the sha256 of run.lock.json, which holds the digest of every artefact: what was registered already."""

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
TAGGED = ("val/ece", "val/accuracy", "val/nll", "test/accuracy", "test/raw/ece", "test/ece", "test/raw/nll", "test/nll")


def check_registry(results: StudyResults, name: str) -> str:
    """Return the tracking URI after checking, before anything is written, that a model can be registered there.

    Raises:
        BadInput: if the name cannot be a model's, or the study is not tracked.
    """
    if not NAME.match(name):
        raise BadInput(f"--register {name}: a model's name has letters, digits, '_', '-' and '.', at most 100 of them")
    uri = tracking_uri(results.study, results.directory.parent)
    if uri is None:
        raise BadInput(
            f"--register {name}: {results.directory} was run with tracking.uri: none, so there is no model registry"
        )
    return uri


def register_export(results: StudyResults, trial: Trial, folder: Path, name: str) -> tuple[int, bool]:
    """Register an export as a version of the model ``name``; one that was registered before is found again.

    The files become artifacts of the trial's run (the version's source is the export, or the MLflow model in it), then
    the version is made with all its tags in one request: if anything fails there is no version, and no model that was
    not there before.

    Args:
        results: The study.
        trial: The exported trial.
        folder: The export.
        name: The registered model's.

    Returns:
        The version's number, and whether it is new.

    Raises:
        BadInput: as `check_registry`.
        TrackingError: if MLflow does not know the trial's run, cannot be reached or refuses.
    """
    uri = check_registry(results, name)
    digest = file_sha256(folder / LOCK)
    try:
        bring_home(uri, results.directory.parent)
        client = connect(uri, database_rights(results.study))
        run = _run_of(client, results, trial)
        if run is None:
            send = f"ddcal sync {shlex.quote(str(results.directory))}"
            raise TrackingError(
                f"tracking.uri: MLflow at {uri} has no run of {trial.trial_key}: `{send}` sends it; nothing was "
                "registered"
            )
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(DIGEST) == digest and version.run_id == run.info.run_id:
                return int(version.version), False
        source = _upload(client, run.info, folder, digest)
        return _create(client, name, source, run.info.run_id, results, trial, digest), True
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"tracking.uri: MLflow at {uri} does not take the model: {one_line(error, uri)}; nothing was registered, "
            f"and the export {folder} is whole: the same command goes on"
        ) from error


def _upload(client: Any, run: Any, folder: Path, digest: str) -> str:
    """Make the export's files artifacts of the run and return the version's source."""
    # With models: those of another network of the same run must not overwrite these.
    place = f"{FOLDER}-{digest[:12]}" if (folder / PREPROCESSING).exists() else FOLDER
    client.log_artifacts(run.run_id, str(folder), place)
    source = f"{run.artifact_uri}/{place}"
    # With an MLflow model `models:/NAME/VERSION` can be loaded and served.
    return f"{source}/{PLACES['mlflow']}" if (folder / PLACES["mlflow"]).is_dir() else source


def _create(client: Any, name: str, source: str, run_id: str, results: StudyResults, trial: Trial, digest: str) -> int:
    """Return the number of a new version; a model that was made for it goes again if it cannot be made."""
    made = not client.search_registered_models(f"name = '{name}'", max_results=1)
    if made:
        tags = {"ddcal.study": results.study.name}
        client.create_registered_model(name, tags=tags, description=results.study.description)
    try:
        description = f"{trial.trial_key} of the study {results.study.name}, as `ddcal export` wrote it."
        version = client.create_model_version(
            name, source, run_id=run_id, tags=_tags(results, trial, digest), description=description
        )
    except Exception:
        if made and not client.search_model_versions(f"name = '{name}'", max_results=1):
            client.delete_registered_model(name)
        raise
    return int(version.version)


def _tags(results: StudyResults, trial: Trial, digest: str) -> dict[str, str]:
    tags = {
        "ddcal.study": results.study.name,
        "ddcal.trial_key": trial.trial_key,
        "ddcal.outcome": trial.outcome or "",
        "ddcal.confirmed": confirmed_word(results.confirmed(trial)),
        "ddcal.calibration": trial.config.calibrate.method,
        "ddcal.git_commit": results.started.get("git_commit") or "",
        DIGEST: digest,
    }
    metrics = trial.metrics or {}
    names = dict.fromkeys((*results.study.objectives, *TAGGED))
    return tags | {metric: f"{metrics[metric]:.6g}" for metric in names if metrics.get(metric) is not None}


def _run_of(client: Any, results: StudyResults, trial: Trial) -> Any:
    experiment = client.get_experiment_by_name(results.study.tracking.experiment or results.study.name)
    if experiment is None:
        return None
    study_id = results.started.get("study_id", "")
    condition = f"tags.`ddcal.study_id` = '{study_id}' and tags.`ddcal.trial_key` = '{trial.trial_key}'"
    found = client.search_runs([experiment.experiment_id], condition, max_results=1)
    return found[0] if found else None
