"""The Ray executor: Tune runs the trials as actors, on this machine or a cluster, on fractional GPUs."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig
from ddcal.errors import ResourceError, StoreError
from ddcal.study.remote.stop_signal import stop_signal
from ddcal.study.run.in_turn.relay import Relay
from ddcal.study.run.interrupt import Interrupts
from ddcal.study.run.ray_start import Head, end_ray, own_signals, start_ray
from ddcal.study.run.ray_token import guard_token, token_file

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the driver hands out no more than it wants; Tune starts one at a time
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # with tracebacks; `LostWorkers` says a sentence
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_prestart_worker_first_driver": "0",  # Tune's actors have an environment of their own: they take none of these
}


COME_AND_GO_SECONDS = 60.0
"""How long a node that Ray lists may take no task."""


@contextmanager
def ray_runtime(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine for as long as the context lasts.

    Usage statistics are off and token authentication is on for every Ray that is started here: `ray.init` turns it on
    by itself (setting RAY_AUTH_MODE after ray was imported would break it), and it is checked. Nobody but this user may
    read the token (`guard_token`).

    Args:
        address: A cluster's address; None takes ``RAY_ADDRESS`` if it is set and starts a local Ray otherwise.

    Raises:
        ResourceError: if there is no cluster at ``address``, Ray does not start here, RAY_AUTH_MODE turns
            authentication off, or others can read the token and this user cannot change that.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    name_data_root()
    import ray

    started = not ray.is_initialized()
    try:
        if started:
            _connect(ray, address)
        yield ray
    finally:
        if started:
            end_ray(ray)


def name_data_root() -> None:
    """Make ``$DDCAL_DATA`` an absolute path: workers, which inherit it, have a working folder of their own."""
    if place := os.environ.get("DDCAL_DATA"):
        os.environ["DDCAL_DATA"] = str(Path(place).expanduser().absolute())


def _connect(ray: Any, address: str | None) -> None:
    local = address is None and "RAY_ADDRESS" not in os.environ
    options: dict[str, Any] = {"object_store_memory": 256 * 2**20, "include_dashboard": False} if local else {}
    options |= {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "ddcal"}
    place = "no Ray on this machine" if local else f"--address {address or os.environ['RAY_ADDRESS']}"
    guard_token(make=local and os.environ.get("RAY_AUTH_MODE", "token") == "token")
    try:
        if local:
            start_ray(ray, options)
        else:
            _knock(address or os.environ["RAY_ADDRESS"])
            with own_signals():
                ray.init(address=address, **options)
    except OSError as error:  # ConnectionError, which Ray raises too, is one
        absent = "" if local else ": no Ray cluster there"
        if isinstance(error, ConnectionError) and "Failed to connect" in str(error):  # something listens
            absent = f": no Ray cluster that lets this client in{_token_hint()}"
        raise ResourceError(f"{place}{absent} ({error})") from error
    except ray.exceptions.RayError as error:
        if type(error).__name__ != "AuthenticationError":  # younger than the oldest Ray that ddcal takes
            raise
        raise ResourceError(f"{place}: {error}") from error
    if local and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ResourceError("RAY_AUTH_MODE: token authentication is off; unset it: ddcal runs no open Ray")
    guard_token(make=False)  # one that Ray has made after all


def _token_hint() -> str:
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return f", or its token is not the one in {token_file() or 'RAY_AUTH_TOKEN'}"
    return "; one that has a token asks for RAY_AUTH_MODE=token in the environment"


def _knock(address: str) -> None:
    """Raise OSError at once if nothing listens at ``host:port``, where Ray itself would try for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def check_resources(study: StudyConfig, available: dict[str, float], nodes: Sequence[dict[str, float]] = ()) -> None:
    """Refuse a study whose trials could never be placed.

    Args:
        study: The study.
        available: Resource → how much of it Ray has in all.
        nodes: The same of each node: a trial is on one.

    Raises:
        ResourceError: naming the key, what is asked and what the cluster has.
    """
    problems = []
    gpu = study.resources.gpu
    if gpu == "auto" and available.get("GPU", 0.0) < 1.0:
        problems.append("resources.gpu: auto needs a GPU but Ray has none: set it to 0 to run on the CPU")
    wanted = (
        (study.resources.cpus_key, "CPU", study.resources.cpus),
        ("resources.gpu", "GPU", 0.0 if gpu == "auto" else gpu),
    )
    for key, name, asked in wanted:
        there = available.get(name, 0.0)
        if asked > there:
            problems.append(
                f"{key}: a trial asks for {asked:g} but Ray has {there:g} {name}s: lower it"
                + (f", or set it to 0 to run on the CPU{_apple_hint()}" if name == "GPU" else "")
            )
    asked_of_one = {"CPU": study.resources.cpus, "GPU": 1.0 if gpu == "auto" else gpu}
    fits = any(all(node.get(name, 0.0) >= asked for name, asked in asked_of_one.items()) for node in nodes)
    if nodes and not fits and not problems:
        more = f" and {asked_of_one['GPU']:g} GPUs" if asked_of_one["GPU"] else ""
        have = ", ".join(f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes[:5])
        problems.append(
            f"{study.resources.cpus_key}: a trial asks for {study.resources.cpus:g} CPUs{more}, and no single node of "
            f"Ray has them ({have}{', …' if len(nodes) > 5 else ''}): lower it"
        )
    if problems:
        raise ResourceError("\n".join(problems))


def _apple_hint() -> str:
    from ddcal.pipeline.environment import gpu_device

    return "; an Apple GPU is for --debug, one trial at a time" if gpu_device() == "mps" else ""


def check_shared(root: Path, ray: Any, *, relative: bool = False, key: str = "storage.output") -> None:
    """Refuse an output root or store that not every node of the cluster sees.

    Args:
        root: The output root or store, absolute.
        ray: Connected.
        relative: Whether it was given relative to the driver's working folder, which means nothing on other nodes.
        key: Its key in the study file, for the message.

    Raises:
        ResourceError: on more than one node, if it was relative, or naming the nodes that do not see it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    if relative:
        raise ResourceError(
            f"storage.output: relative, and this cluster has {len(nodes)} nodes: give the absolute path of a folder "
            f"that all of them see, with --output (here it would be {root})"
        )
    root.mkdir(parents=True, exist_ok=True)
    marker = root / f".ddcal-{uuid.uuid4().hex}"
    marker.touch()
    try:
        blind = _blind_nodes(marker, ray)
    finally:
        marker.unlink()
    if blind:
        raise ResourceError(f"{key}: {root} is not a shared folder: not seen from {', '.join(blind)}")


def _blind_nodes(marker: Path, ray: Any) -> list[str]:
    """Return the names of the nodes that do not see a file."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    deadline = time.monotonic() + COME_AND_GO_SECONDS
    exists = ray.remote(num_cpus=0)(os.path.exists)
    while True:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
        try:
            seen = ray.get([exists.options(scheduling_strategy=place).remote(str(marker)) for place in places])
        except ray.exceptions.TaskUnschedulableError as error:  # a node that only just came, or went
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"the cluster's nodes come and go: for {COME_AND_GO_SECONDS:g} seconds one of them took no task; "
                    "see `ray status`"
                ) from error
            time.sleep(1.0)
            continue
        return [node["NodeManagerHostname"] for node, there in zip(nodes, seen, strict=True) if not there]


def load_tune() -> None:
    """Import what `run_on_ray` needs; before MLflow's thread begins, which imports as much and would slow it down."""
    importlib.import_module("ddcal.study.run.trainable")


def run_on_ray(
    relay: Relay,
    ray: Any,
    interrupts: Interrupts | None = None,
    abandon: Callable[[StoreError], None] | None = None,
) -> None:
    """Run every trial of the studies with Tune; returns when all are finished.

    Args:
        relay: The drivers; all of studies that are `alike` (`ddcal.study.run.in_turn.studies`).
        ray: Connected.
        interrupts: What signals do.
        abandon: Closes the drivers and ends this process where Ray's head is lost and nothing returns from Ray; called
            in another thread.

    Raises:
        KeyboardInterrupt: after a Ctrl-C or SIGTERM, when the running trials have saved their state.
        StoreError: if Ray's head is lost.
    """
    from ray import tune
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig

    from ddcal.study.run.ray_search import (
        DriverSearcher,
        DriverStopper,
        EndedTrialsForgotten,
        LostWorkers,
        OwnSignals,
    )
    from ddcal.study.run.starting import let_workers_start
    from ddcal.study.run.trainable import DDNNTrainable, DistillTrainable
    from ddcal.study.search.schedulers import make_scheduler

    for noisy in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    snapshots = logging.getLogger(
        "ray.tune.execution.experiment_state"
    )  # never read: no matter if a full disk has none
    snapshots.setLevel(logging.CRITICAL)
    driver = relay.present
    study = driver.study
    trainable = DDNNTrainable if study.trial == "ddnn" else DistillTrainable
    relay.forget_stop()
    searcher = DriverSearcher(relay)
    tuner = tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=let_workers_start(make_scheduler(study, driver.directory)),
            num_samples=-1,  # the drivers say when it is over: a trial may need another attempt
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
            trial_name_creator=_folder_name,
        ),
        run_config=RunConfig(
            name=f"ray-{driver.session}",  # Tune's own folder; nothing is read back from it
            storage_path=str(driver.directory),
            stop=DriverStopper(searcher),
            callbacks=[LostWorkers(searcher), EndedTrialsForgotten(), OwnSignals()],
            failure_config=FailureConfig(max_failures=study.resources.retries),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # stages keep their own, in the store
            verbose=0,
        ),
    )
    try:
        interrupts = interrupts or Interrupts()
        signalled = stop_signal(ray, lambda: searcher.error is not None) if study.storage.on_s3 else nullcontext()
        with (
            signalled as searcher.stop_signal,
            interrupts.deferred(lambda: searcher.fail(interrupts.error())),
            Head(ray).watched(relay.stop, searcher.abandon(abandon)),
        ):
            tuner.fit()
    finally:
        relay.forget_stop()
    if searcher.error is not None:
        raise searcher.error
    if relay.running or not relay.through:  # Tune has ended before its time
        raise KeyboardInterrupt


def _folder_name(trial: Any) -> str:
    return str(trial.config["trial_key"])
