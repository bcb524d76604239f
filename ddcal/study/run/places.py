"""Where a study is to lie: its folder, and checks that nothing else has that place and that it can be written."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.config.places import is_url, taken_by
from ddcal.config.reading.study_paths import from_folder, with_study_paths
from ddcal.config.trial import flatten
from ddcal.errors import BadInput, ResourceError
from ddcal.study.mlflow.client import sqlite_path, tracking_uri, without_password
from ddcal.study.mlflow.cursor import CURSOR
from ddcal.study.record.confirmation import CONFIRMATION, confirm_command
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import LEDGER, begun
from ddcal.study.record.lock import LOCK
from ddcal.study.record.results import SUMMARY, TRIALS, StudyResults, load_study
from ddcal.study.record.study_store import cache_place, store_place
from ddcal.study.remote.output import FETCHED, fetch_begun

MAY_CHANGE = ("search.trials", "description", "notify.", "tracking.")
"""Settings on which no result of a study depends."""


def in_ray_job() -> bool:
    """Return whether this process was started by ``ray job submit``, whose working folder is temporary."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def place_to_resume(study: StudyConfig, output: Path | None, *, take_over: bool = False) -> Path:
    """Return a study's folder, which need not be there, brought up to what S3 has if the study is kept there.

    Raises:
        BadInput: as `refuse_other` and `ddcal.study.remote.output.fetch_begun`.
    """
    root = (Path(study.storage.root) if output is None else output).absolute()
    directory = root / study.name
    if not directory.is_file() and not is_foreign(directory):
        fetch_begun(study, directory, take_over=take_over)
    if begun(directory):
        refuse_other(study_at(study, root), directory)
    return directory


def tracked_elsewhere(study: StudyConfig, directory: Path) -> bool:
    """Return whether a folder's study, begun before, is to be sent to another MLflow than it was.

    Args:
        study: As its file has it.
        directory: Its folder.
    """
    given = study_at(study, directory.parent).tracking
    return begun(directory) and without_password(load_study(directory).study).tracking != given


def refuse_lost_ledger(directory: Path) -> None:
    """Raise BadInput where a study has run whose ledger is gone; a kill before its first line leaves no such file."""
    there = [name for name in (TRIALS, SUMMARY, CURSOR) if (directory / name).exists()]
    if there:
        raise BadInput(
            f"{directory / LEDGER} is missing or empty, but {', '.join(there)} beside it say that this study has run: "
            "put a copy of the ledger back, or move the folder away and run the study again (its finished stages stay "
            "in the store)"
        )


def refuse_other(study: StudyConfig, directory: Path) -> None:
    """Raise BadInput if a folder's study, begun before, is not ``study`` (of `study_at`), but for how many trials.

    Where it is tracked, how it is told of and how many trials it has may change: no result depends on them.
    """
    recorded = flatten(load_study(directory).study.model_dump(mode="json"))
    given = flatten(study.model_dump(mode="json"))
    changed = [
        f"{name} was {recorded.get(name)!r}, now {given.get(name)!r}"
        for name in sorted(recorded.keys() | given.keys())
        if recorded.get(name) != given.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if changed:
        raise BadInput(
            f"{directory} was begun with other settings ({'; '.join(changed[:5])}{'; ...' * (len(changed) > 5)}): "
            f"`ddcal resume {shlex.quote(str(directory))}` goes on with them; for these take another name or --output"
        )


def begun_meanwhile(directory: Path) -> BadInput:
    """Return the error of a driver that has looked at a folder, and came to its lock after another one's work."""
    return BadInput(
        f"{directory}: another driver has begun the study, or gone on with it, since this one looked: give the same "
        "command again"
    )


def with_given(study: StudyConfig, given: StudyConfig) -> StudyConfig:
    """Return a recorded study with what may change (`MAY_CHANGE`) as it is given now, but for its number of trials.

    So whoever can write to a ledger, on S3 say, has no command run, and no address told, by those who have a file of
    their own. A password of the same tracking URI that an earlier version has recorded stays.
    """
    changed = {"description": given.description, "notify": given.notify}
    if without_password(study).tracking != given.tracking:
        changed["tracking"] = given.tracking
    return study.model_copy(update=changed)


def check_trials(earlier: StudyResults, trials: int) -> None:
    """Raise BadInput if a study cannot go on to so many trials in all."""
    if trials < len(earlier.records):
        raise BadInput(f"--trials {trials}: {earlier.directory} has {len(earlier.records)} trials already")
    if earlier.confirms is not None and trials > earlier.study.search.trials:
        raise BadInput(
            f"--trials {trials}: {earlier.directory} has a trial for each leader of {earlier.confirms} and fresh seed; "
            f"more of them: `{confirm_command(earlier.directory, earlier.confirms)} --top N --seeds N`"
        )


def is_read_only(place: Path) -> bool:
    """Return whether a place is a folder that takes nothing."""
    return place.is_dir() and not os.access(place, os.W_OK)


def is_foreign(directory: Path) -> bool:
    """Whether the folder holds anything but a study, or what a driver killed as it began leaves."""
    if not directory.is_dir() or (directory / STUDY).is_file() or begun(directory):
        return False
    ours = (LOCK, f".{LOCK}", f".{STUDY}", FETCHED, CONFIRMATION)  # what is fetched comes before the ledger
    return any(not path.name.startswith(ours) for path in directory.iterdir())


def study_at(study: StudyConfig, root: Path) -> StudyConfig:
    """Return the study with its paths absolute (relative ones are of the working folder) and its output root.

    One that is kept on S3 names its place there instead.
    """
    values = with_study_paths(study.model_dump(mode="json"), from_folder(Path.cwd()))
    if not study.storage.on_s3:
        values["storage"]["output"] = str(root)
    return StudyConfig.model_validate(values)


def check_name(study: StudyConfig, root: Path) -> None:
    """Raise ResourceError if the study's folder would be a folder or file of something else in the output root."""
    directory, uri = root.absolute() / study.name, tracking_uri(study, root)
    places = {"the artefact store": store_place(study, root), "the cache of artefacts": cache_place(study)}
    places["MLflow's database"] = None if uri is None else str(sqlite_path(uri) or "")
    taken = taken_by(study.name) or next(
        (what for what, place in places.items() if place and os.path.realpath(place) == os.path.realpath(directory)),
        None,
    )
    if taken is not None:
        raise ResourceError(
            f"name: a study cannot be called {study.name!r} in {root}: {taken} has that place; take another name"
        )


def refuse_bytes(study: StudyConfig, root: Path) -> None:
    """Raise ResourceError if a place of the study has a path that is not UTF-8: no JSON that names it could be kept."""
    places = {"storage.output": str(root.absolute()), "storage.store": store_place(study, root)}
    for key, place in (places | {"storage.cache": cache_place(study) or ""}).items():
        try:
            place.encode()
        except UnicodeEncodeError:
            raise ResourceError(f"{key}: the path {place} is not UTF-8: rename the folder, or take another") from None


def check_places(study: StudyConfig, root: Path) -> None:
    """Raise ResourceError if a study's output root, store or cache could not be kept where it is to be."""
    refuse_bytes(study, root)
    check_place("storage.output", root, lasting=not study.storage.on_s3)
    for key, folder in (("storage.store", study.storage.store), ("storage.cache", study.storage.cache)):
        if folder is not None and not is_url(folder):
            check_place(key, Path(folder).expanduser(), readable=key == "storage.store")


def check_place(key: str, place: Path, *, readable: bool = False, lasting: bool = True) -> None:
    """Raise ResourceError if results could not be kept in the folder ``place``, which need not exist yet.

    Where reading is enough (a store of finished stages, which a study may use without adding to it), one that exists is
    not refused for being read-only. Where it need not be ``lasting`` (the study is kept on S3), it may be a Ray
    job's own.
    """
    temporary = "runtime_resources" in Path.cwd().parts and place.is_relative_to(Path.cwd())
    if lasting and in_ray_job() and (temporary or not place.is_absolute()):
        option = "--output" if key == "storage.output" else f"--set {key}=..."
        raise ResourceError(
            f"{key}: {place} is relative to the working folder of a Ray job, which is thrown away: "
            f"give an absolute path on a shared file system ({option})"
        )
    place = place.absolute()
    existing = next(path for path in (place, *place.parents) if path.exists() or path.is_symlink())
    if existing.is_symlink() and not existing.exists():
        raise ResourceError(f"{key}: {existing} is a link to {os.readlink(existing)}, which is not there")
    if not existing.is_dir():
        raise ResourceError(f"{key}: {place} cannot be a folder: {existing} is a file")
    if readable and existing == place and os.access(place, os.R_OK | os.X_OK):
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ResourceError(f"{key}: {place} cannot be written: no permission to write in {existing}")
