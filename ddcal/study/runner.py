"""Running a study: checks first, then one of two executors over the same driver."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig, trial_from
from ddcal.errors import ResourceError
from ddcal.pipeline import Advance, Environment
from ddcal.study.driver import StudyDriver
from ddcal.study.ray_executor import check_resources, check_shared, in_ray_job, ray_runtime, run_on_ray
from ddcal.study.results import StudyResults, Trial
from ddcal.study.tracking import make_tracker
from ddcal.study.worker import Assignment


def run_study(
    study: StudyConfig,
    *,
    output: Path | str | None = None,
    debug: bool = False,
    catch: bool = True,
    address: str | None = None,
    on_start: Callable[[str], None] | None = None,
    on_finished: Callable[[Trial], None] | None = None,
    on_trial: Callable[[Assignment], None] | None = None,
    on_advance: Callable[[Advance], None] | None = None,
) -> StudyResults:
    """Run a study and return its results.

    Args:
        study: The study, for example from `ddcal.config.read_study`.
        output: The output root; the study's folder is ``<output>/<name>``. Default: ``storage.output``.
        debug: Run the trials one after another in this process, without Ray.
        catch: In debug mode, whether a trial's exception becomes its outcome or is raised.
        address: A Ray cluster's address; default: ``RAY_ADDRESS``, else Ray on this machine.
        on_start: Called with a sentence on where the study runs.
        on_finished: Called after each trial.
        on_trial: In debug mode, called before each trial.
        on_advance: In debug mode, called after every chunk of a trial's work.

    Raises:
        ResourceError: if the study's folder exists, trials ask for more than there is, or the root is not shared.
        ddcal.data.DataError: if the data is missing.
    """
    root = Path(output if output is not None else study.storage.output)
    places = {"storage.output": root} | ({"storage.store": Path(study.storage.store)} if study.storage.store else {})
    for key, place in places.items():
        _check_place(key, place)
    root = root.absolute()
    directory = root / study.name
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ResourceError(
            f"{directory} exists: take another name or --output, or move that folder away "
            "(finished stages stay in the store either way)"
        )
    _check_data(study)
    if debug:
        environment = Environment(_debug_device(study), study.resources.threads)
        from ddcal.study.debug import run_in_process

        driver = _driver(study, directory, environment, on_finished)
        if on_start is not None:
            note = f"; scheduler {study.scheduler.name} is off" if study.scheduler.name != "none" else ""
            on_start(f"debug mode: one trial at a time in this process on {environment.device_kind}{note}")
        return _guarded(driver, lambda: run_in_process(driver, catch=catch, on_trial=on_trial, on_advance=on_advance))

    if on_start is not None:
        on_start("starting" if address is None else f"connecting to Ray at {address}")
    with ray_runtime(address) as ray:
        check_resources(study, ray.cluster_resources())
        root.mkdir(parents=True, exist_ok=True)
        check_shared(root, ray)
        environment = Environment("cuda" if study.resources.gpu else "cpu", study.resources.threads)
        driver = _driver(study, directory, environment, on_finished)
        if on_start is not None:
            resources = ray.cluster_resources()
            nodes = len([node for node in ray.nodes() if node["Alive"]])
            on_start(
                f"Ray: {nodes} node{'s' * (nodes != 1)}, {resources.get('CPU', 0):g} CPUs, "
                f"{resources.get('GPU', 0):g} GPUs; "
                f"{study.search.concurrency} trial{'s' * (study.search.concurrency != 1)} at a time"
            )
        return _guarded(driver, lambda: run_on_ray(driver, ray))


def _driver(
    study: StudyConfig, directory: Path, environment: Environment, on_finished: Callable[[Trial], None] | None
) -> StudyDriver:
    directory.mkdir(parents=True, exist_ok=True)
    tracker = make_tracker(study, directory.parent)
    return StudyDriver(study, directory, environment, tracker, on_finished=on_finished)


def _guarded(driver: StudyDriver, run: Callable[[], None]) -> StudyResults:
    """Close the driver whatever happens, so that no trial and no MLflow run stays open."""
    try:
        run()
    except BaseException:
        driver.close(interrupted=True)
        raise
    return driver.close()


def _check_place(key: str, place: Path) -> None:
    """Raise ResourceError if results could not be kept in the folder ``place``, which need not exist yet."""
    if in_ray_job() and not place.is_absolute():
        option = "--output" if key == "storage.output" else f"--set {key}=..."
        raise ResourceError(
            f"{key}: {place} is relative, and the working folder of a Ray job is thrown away: "
            f"give an absolute path on a shared file system ({option})"
        )
    place = place.absolute()
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not existing.is_dir():
        raise ResourceError(f"{key}: {place} cannot be a folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ResourceError(f"{key}: {place} cannot be written: no permission to write in {existing}")


def _check_data(study: StudyConfig) -> None:
    """Raise DataError now rather than once in every trial, for every dataset that the study can ask for."""
    from ddcal.data import dataset_fingerprint

    domain = study.space.get("data.name")
    variants: list[dict[str, Any]] = [{"data.name": name} for name in domain.corners] if domain else [{}]
    for values in variants:
        dataset_fingerprint(trial_from(study.base, values).data)


def _debug_device(study: StudyConfig) -> str:
    if not study.resources.gpu:
        return "cpu"
    from ddcal.pipeline.environment import default_device

    if default_device() == "cpu":
        raise ResourceError(
            f"resources.gpu: a trial asks for {study.resources.gpu:g} but this machine has no GPU that torch sees: "
            "set it to 0 to run on the CPU"
        )
    return "cuda"
