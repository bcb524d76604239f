"""Running a study: checks first, then one of two executors over the same driver."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ddcal.config import StudyConfig, read_study
from ddcal.config.places import is_url, tracking_problem
from ddcal.errors import BadInput, ResourceError, StoreError
from ddcal.pipeline import Advance, Environment, Store
from ddcal.pipeline.environment import study_environment
from ddcal.store.leases import Leases, open_leases
from ddcal.study.mlflow.cursor import CURSOR
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.mlflow.opening import make_mirror
from ddcal.study.notify import check_notify, notified
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import begun
from ddcal.study.record.lock import DriverLock
from ddcal.study.record.results import StudyResults, Trial, load_study
from ddcal.study.record.rights import as_access_says, make_folder
from ddcal.study.record.study_store import check_remote_store, store_place
from ddcal.study.remote.output import fetch_begun, open_copying, output_bucket, refuse_begun
from ddcal.study.run.checks import refuse_data, refuse_files
from ddcal.study.run.cluster_leases import cluster_leases
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.interrupt import Interrupts, end_process, interruptible, say, stopped_before
from ddcal.study.run.places import (
    begun_meanwhile,
    check_name,
    check_places,
    check_trials,
    is_foreign,
    is_read_only,
    refuse_bytes,
    refuse_lost_ledger,
    refuse_other,
    study_at,
    with_given,
)
from ddcal.study.run.ray_executor import check_resources, check_shared, load_tune, ray_runtime, run_on_ray
from ddcal.study.run.takeover import rebuild_journal
from ddcal.study.run.unusable import stop_sentence, stops_the_study
from ddcal.study.run.worker import Assignment
from ddcal.study.search.samplers import check_installed
from ddcal.study.search.search import JOURNAL

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A study begins or goes on.

    Attributes:
        study: The study.
        directory: Its folder.
        finished: How many trials have ended already.
        where: Where its trials run, a sentence.
        cpus: How many CPUs there are for its trials; None if that is not known.
        gpus: As ``cpus``.
    """

    study: StudyConfig
    directory: Path
    finished: int
    where: str
    cpus: float | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Hooks:
    """What to call while a study runs; all optional.

    Attributes:
        on_start: As the study starts, and again when it is known where it runs.
        on_finished: After each trial.
        on_trial: In debug mode, before each trial.
        on_advance: In debug mode, after every chunk of a trial's work.
        on_interrupt: At each Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP, with the count and the signal; the second raises
            KeyboardInterrupt if this returns.
        on_lost: With a sentence, in another thread, where Ray's head is lost and this process ends; default: prints it.
        command: Returns the command that goes on with the study in a folder, for messages; default: ``ddcal resume``.
        on_end: When all trials have ended, before MLflow is told; whatever it raises is logged alone.
    """

    on_start: Callable[[Start], None] | None = None
    on_finished: Callable[[Trial], None] | None = None
    on_trial: Callable[[Assignment], None] | None = None
    on_advance: Callable[[Advance], None] | None = None
    on_interrupt: Callable[[int, int], None] | None = None
    on_lost: Callable[[str], None] | None = None
    command: Callable[[Path], str] | None = None
    on_end: Callable[[StudyResults], None] | None = None


def run_study(
    study: StudyConfig,
    *,
    output: Path | str | None = None,
    debug: bool = False,
    catch: bool = True,
    address: str | None = None,
    hooks: Hooks | None = None,
    resume: bool = False,
    take_over: bool = False,
) -> StudyResults:
    """Run a study and return its results.

    Args:
        study: The study, for example from `ddcal.config.read_study`.
        output: The output root; the study's folder is ``<output>/<name>``. Default: ``storage.output``.
        debug: Run the trials one after another in this process, without Ray.
        catch: In debug mode, whether a trial's exception becomes its outcome or is raised.
        address: A Ray cluster's address; default: ``RAY_ADDRESS``, else Ray on this machine.
        hooks: What to call while it runs.
        resume: Whether a study that was begun before goes on, so that one call begins it and goes on with it.
        take_over: As in `resume_study`.

    Raises:
        BadInput: if the study's tracking URI holds a password, or its folder's study was begun with other settings.
        ResourceError: if the study's folder exists, trials ask for more than there is, or the root is not shared.
        StoreError: if the store or the output root takes nothing more, or Ray's head is lost; `resume_study` goes on
            with the study. Where nothing returns from a Ray whose head is lost, the process is ended (`Hooks.on_lost`).
        ddcal.data.DataError: if the data is missing.
    """
    if problem := tracking_problem(study.tracking.uri):
        raise BadInput(f"tracking.uri: {problem}")
    root = Path(output if output is not None else study.storage.root)
    check_places(study, root)
    check_name(study, root)
    study = study_at(study, root.absolute())
    directory = root.absolute() / study.name
    if directory.is_file() or is_foreign(directory):
        raise ResourceError(f"{directory} exists and is not a study's folder: take another name or --output")
    if resume:
        fetch_begun(study, directory, take_over=take_over)
    elif not begun(directory):
        refuse_begun(study)
    options: dict[str, Any] = {"debug": debug, "catch": catch, "address": address, "take_over": take_over}
    if resume and begun(directory):
        refuse_other(study, directory)
        trials = max(study.search.trials, load_study(directory).study.search.trials)  # it may have been extended
        return resume_study(directory, trials=trials, given=study, hooks=hooks, **options)
    if begun(directory):
        raise ResourceError(
            f"{directory} exists: `ddcal resume {shlex.quote(str(directory))}` goes on with it; to begin anew take "
            "another name or --output, or move that folder away (finished stages stay in the store either way)"
        )
    refuse_lost_ledger(directory)
    relative = not root.is_absolute() and not study.storage.on_s3
    return _run(study, directory, None, hooks=hooks or Hooks(), relative=relative, **options)


def resume_study(
    directory: Path | str,
    *,
    trials: int | None = None,
    given: StudyConfig | None = None,
    debug: bool = False,
    catch: bool = True,
    address: str | None = None,
    hooks: Hooks | None = None,
    take_over: bool = False,
) -> StudyResults:
    """Go on with a study that was interrupted or killed, or extend a finished one.

    Finished trials count; unfinished ones are handed out again under the same number and key and go on from the
    checkpoints of their stages.

    Args:
        directory: The study's folder.
        trials: The new number of trials in all; None keeps it.
        given: The study as its file has it now, where the folder is as new as S3: how it is tracked and told of is as
            it says; None: as the folder's ledger says.
        debug: As in `run_study`.
        catch: As in `run_study`.
        address: As in `run_study`.
        hooks: As in `run_study`.
        take_over: Whether SLURM is asked if a driver of another machine has ended (`ddcal.study.record.lock`).

    Raises:
        BadInput: if the folder is not a study's, another driver works on it, or ``trials`` is below what there is.
        StoreError: as `run_study`.
    """
    options: dict[str, Any] = {"debug": debug, "catch": catch, "address": address, "take_over": take_over}
    options["hooks"] = hooks or Hooks()
    if not begun(directory) and (Path(directory) / STUDY).is_file():  # killed before the ledger's first line
        refuse_lost_ledger(Path(directory))
        study = read_study(Path(directory) / STUDY, [] if trials is None else [f"search.trials={trials}"])
        return _run(study, Path(directory).absolute(), None, **options)
    earlier = load_study(directory)
    if given is None and earlier.study.storage.on_s3:  # where a driver elsewhere may have gone on with it
        given = earlier.study
        fetch_begun(given, earlier.directory, take_over=take_over)
        earlier = load_study(directory)
    study = earlier.study if given is None else with_given(earlier.study, given)
    if trials is not None:
        check_trials(earlier, trials)
        study = study.model_copy(update={"search": study.search.model_copy(update={"trials": trials})})
    return _run(study, earlier.directory, earlier, **options)


def _run(
    study: StudyConfig,
    directory: Path,
    earlier: StudyResults | None,
    *,
    debug: bool,
    catch: bool,
    address: str | None,
    hooks: Hooks,
    relative: bool = False,
    take_over: bool = False,
) -> StudyResults:
    refuse_bytes(study, directory.parent)
    with (
        stops_the_study(directory, hooks.command),
        interruptible(hooks.on_interrupt) as interrupts,
        ExitStack() as stack,
    ):
        stack.enter_context(stopped_before(study.stop.before_seconds))
        check_installed(study.search.searcher)
        check_notify(study)
        for warning in (*refuse_data(study), *refuse_files(study)):
            logger.warning("%s", warning)
        check_remote_store(study)
        output_bucket(study)
        finished = 0 if earlier is None else sum(trial.outcome is not None for trial in earlier.records)

        def say(where: str, **there: float) -> None:
            if hooks.on_start is not None:
                hooks.on_start(Start(study, directory, finished, where, **there))

        if debug:
            from ddcal.study.run.debug import debug_device, run_in_process

            environment = study_environment(study, debug_device(study))
            stack.enter_context(as_access_says(study.storage.access))
            driver = _driver(study, directory, environment, earlier, hooks, take_over=take_over)
            note = f"; scheduler {study.scheduler.name} is off" if study.scheduler.name != "none" else ""
            say(f"debug mode: one trial at a time in this process on {environment.device_kind}{note}")

            def on_advance(advance: Advance) -> None:  # between two pieces of work, where a trial's state can be saved
                if hooks.on_advance is not None:
                    hooks.on_advance(advance)
                interrupts.check()

            def run() -> None:
                with interrupts.deferred():
                    run_in_process(driver, catch=catch, on_trial=hooks.on_trial, on_advance=on_advance)

            return _guarded(driver, run, interrupts, hooks.on_end)

        say("starting" if address is None else f"connecting to Ray at {address}")
        with ray_runtime(address) as ray, as_access_says(study.storage.access):  # Ray's own files stay as they are
            resources = ray.cluster_resources()
            alive = [node for node in ray.nodes() if node["Alive"]]
            check_resources(study, resources, [node["Resources"] for node in alive])
            make_folder(directory.parent, study.storage.access, shared=True)
            if not study.storage.on_s3:  # there the folder is the driver's alone, and the store is not
                check_shared(directory.parent, ray, relative=relative)
            store, named = store_place(study, directory.parent), study.storage.store is not None
            if (named or study.storage.on_s3) and not is_url(store) and not is_read_only(Path(store)):
                check_shared(Path(store), ray, key="storage.store")
            environment = ray_environment(study, ray)
            load_tune()
            gpus = resources.get("GPU", 0.0)
            driver = _driver(
                study, directory, environment, earlier, hooks, gpus=gpus, leases=cluster_leases, take_over=take_over
            )
            at_a_time = study.search.concurrency
            say(
                f"Ray: {len(alive)} node{'s' * (len(alive) != 1)}, {resources.get('CPU', 0):g} CPUs, "
                f"{resources.get('GPU', 0):g} GPUs; {at_a_time} trial{'s' * (at_a_time != 1)} at a time",
                cpus=resources.get("CPU", 0.0),
                gpus=gpus,
            )
            abandon = partial(_abandon, driver, hooks)
            return _guarded(driver, lambda: run_on_ray(driver, ray, interrupts, abandon), interrupts, hooks.on_end)


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


def _driver(
    study: StudyConfig,
    directory: Path,
    environment: Environment,
    earlier: StudyResults | None,
    hooks: Hooks,
    gpus: float | None = None,
    leases: Callable[[Store], Leases] = open_leases,
    take_over: bool = False,
) -> StudyDriver:
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
            on_finished=hooks.on_finished,
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


def _guarded(
    driver: StudyDriver,
    run: Callable[[], None],
    interrupts: Interrupts,
    on_end: Callable[[StudyResults], None] | None = None,
) -> StudyResults:
    """Close the driver in any case, so that no MLflow run stays open and the folder is free."""
    try:
        run()
    except BaseException:
        with interrupts.deferred(), notified(driver.study, driver.directory):
            driver.close(interrupted=True)
            raise
    with interrupts.deferred(), notified(driver.study, driver.directory):
        return driver.close(on_end=on_end)


def _abandon(driver: StudyDriver, hooks: Hooks, error: StoreError) -> None:
    """Close a driver whose main thread waits for a Ray that is gone, and end this process before Ray does."""
    words = stop_sentence(driver.directory, str(error), error.cure, hooks.command)
    if hooks.on_lost is None:
        say(2, f"{words}\n")
    else:
        hooks.on_lost(words)
    with suppress(BaseException), notified(driver.study, driver.directory):
        driver.close(interrupted=True)
        raise error
    end_process(1)
