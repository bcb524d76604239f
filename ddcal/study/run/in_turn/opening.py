"""Opening a study: its folder is locked, MLflow follows its ledger, and its driver has trials to hand out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.config.places import is_url
from ddcal.pipeline import Environment, Store
from ddcal.pipeline.environment import study_environment
from ddcal.store.leases import Leases, open_leases
from ddcal.study.mlflow.cursor import CURSOR
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.mlflow.opening import make_mirror
from ddcal.study.notify import notified
from ddcal.study.record.ledger import begun
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.results import load_study
from ddcal.study.record.rights import make_folder
from ddcal.study.record.study_store import store_place
from ddcal.study.remote.output import open_copying
from ddcal.study.run.cluster_leases import cluster_leases
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.in_turn.prepared import Prepared
from ddcal.study.run.places import begun_meanwhile, is_read_only
from ddcal.study.run.ray_executor import check_resources, check_shared, load_tune
from ddcal.study.run.takeover import rebuild_journal
from ddcal.study.search.search import JOURNAL


def open_on_ray(prepared: Prepared, ray: Any) -> StudyDriver:
    """Open a study whose trials Ray runs.

    Args:
        prepared: The study.
        ray: Connected.

    Raises:
        ResourceError: if trials ask for more than Ray has, or not every node sees the study's places.
        BadInput: as `open_driver`.
    """
    study, directory = prepared.study, prepared.directory
    resources = ray.cluster_resources()
    alive = [node for node in ray.nodes() if node["Alive"]]
    check_resources(study, resources, [node["Resources"] for node in alive])
    make_folder(directory.parent, study.storage.access, shared=True)
    if not study.storage.on_s3:  # there the folder is the driver's alone, and the store is not
        check_shared(directory.parent, ray, relative=prepared.relative)
    store, named = store_place(study, directory.parent), study.storage.store is not None
    if (named or study.storage.on_s3) and not is_url(store) and not is_read_only(Path(store)):
        check_shared(Path(store), ray, key="storage.store")
    environment = ray_environment(study, ray)
    load_tune()
    gpus = resources.get("GPU", 0.0)
    driver = open_driver(prepared, environment, gpus=gpus, leases=cluster_leases)
    at_a_time = study.search.concurrency
    with closed_where_interrupted(driver):
        prepared.say(
            f"Ray: {len(alive)} node{'s' * (len(alive) != 1)}, {resources.get('CPU', 0):g} CPUs, "
            f"{resources.get('GPU', 0):g} GPUs; {at_a_time} trial{'s' * (at_a_time != 1)} at a time",
            cpus=resources.get("CPU", 0.0),
            gpus=gpus,
        )
    return driver


def open_driver(
    prepared: Prepared,
    environment: Environment,
    *,
    gpus: float | None = None,
    leases: Callable[[Store], Leases] = open_leases,
) -> StudyDriver:
    """Lock a study's folder, begin to follow its ledger, and return its driver.

    Args:
        prepared: The study.
        environment: Where its trials compute.
        gpus: As in `StudyDriver`.
        leases: As in `StudyDriver`.

    Raises:
        BadInput: if another driver works on the folder, or has begun the study meanwhile.
    """
    study, directory, earlier, take_over = prepared.study, prepared.directory, prepared.earlier, prepared.take_over
    make_folder(directory.parent, study.storage.access, shared=True)
    make_folder(directory, study.storage.access)
    lock = DriverLock(directory, take_over=take_over)
    tracking, copying = Tracking(None), None
    try:
        if earlier is None and begun(directory):
            raise begun_meanwhile(directory)
        copying = open_copying(study, directory, fresh=earlier is None, take_over=take_over)
        copied = None if copying is None else lambda: copying.copied
        if earlier is not None:
            sessions, earlier = earlier.sessions, load_study(directory)  # now that nobody else writes
            if earlier.sessions != sessions:
                raise begun_meanwhile(directory)
            if copying is not None and not (directory / JOURNAL).exists():  # it is not on S3
                rebuild_journal(study, directory, earlier.records)
            if study.tracking != earlier.study.tracking:  # it is of another MLflow, and this one may have nothing
                (directory / CURSOR).unlink(missing_ok=True)
        tracking = Tracking(make_mirror(study, directory, copied))
        driver = StudyDriver(
            study,
            directory,
            environment,
            tracking,
            lock,
            earlier=earlier,
            on_finished=prepared.hooks.on_finished,
            gpus=gpus,
            leases=leases,
            copying=copying,
        )
        if copying is not None:
            copying.begin()
        return driver
    except BaseException:
        tracking.close()
        if earlier is not None and study.tracking != earlier.study.tracking:
            (directory / CURSOR).unlink(missing_ok=True)  # the ledger still names the former MLflow
        if copying is not None:
            copying.close(hurried=True)
        lock.release()
        raise


@contextmanager
def closed_where_interrupted(driver: StudyDriver) -> Iterator[None]:
    """Close a driver where the context raises, so that no MLflow run stays open and the folder is free."""
    try:
        yield
    except BaseException:
        with notified(driver.study, driver.directory):
            driver.close(interrupted=True)
            raise


def ray_device(study: StudyConfig) -> str:
    """Return the device of a study's trials on Ray."""
    return "cuda" if study.resources.gpu else "cpu"


def ray_environment(study: StudyConfig, ray: Any) -> Environment:
    """Return where trials compute, with the GPU's model from a node that has one if this one has none."""
    environment = study_environment(study, ray_device(study))
    if environment.device_kind != "cuda":
        return environment
    kind = ray.remote(num_cpus=0, num_gpus=0.01, max_retries=0)(_device_kind)
    return replace(environment, kind=ray.get(kind.remote()))


def _device_kind() -> str:
    return Environment("cuda").device_kind
