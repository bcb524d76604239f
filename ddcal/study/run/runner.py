"""Running a study: checks first, then one of two executors over the same driver."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from ddcal.config import StudyConfig, read_study
from ddcal.config.places import tracking_problem
from ddcal.errors import BadInput, ResourceError
from ddcal.pipeline import Advance
from ddcal.pipeline.environment import study_environment
from ddcal.study.notify import notified
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import begun
from ddcal.study.record.results import StudyResults, load_study
from ddcal.study.record.rights import as_access_says
from ddcal.study.remote.output import fetch_begun, refuse_begun
from ddcal.study.run.in_turn.opening import closed_where_interrupted, open_driver
from ddcal.study.run.in_turn.prepared import Hooks, Prepared, Start
from ddcal.study.run.in_turn.studies import alike, run_in_turn
from ddcal.study.run.interrupt import interruptible, stopped_before
from ddcal.study.run.places import (
    check_name,
    check_places,
    check_trials,
    is_foreign,
    refuse_lost_ledger,
    refuse_other,
    study_at,
    with_given,
)
from ddcal.study.run.unusable import stops_the_study

__all__ = ["Hooks", "Start", "resume_study", "run_studies", "run_study"]


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
    prepared = _prepared(study, output, hooks or Hooks(), resume=resume, take_over=take_over)
    return _run(prepared, debug=debug, catch=catch, address=address)


def _prepared(
    study: StudyConfig, output: Path | str | None, hooks: Hooks, *, resume: bool = False, take_over: bool = False
) -> Prepared:
    """Return a study that begins, or with ``resume`` goes on where it was begun before."""
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
    if resume and begun(directory):
        refuse_other(study, directory)
        trials = max(study.search.trials, load_study(directory).study.search.trials)  # it may have been extended
        return _prepared_again(directory, hooks, trials=trials, given=study, take_over=take_over)
    if begun(directory):
        raise ResourceError(
            f"{directory} exists: `ddcal resume {shlex.quote(str(directory))}` goes on with it; to begin anew take "
            "another name or --output, or move that folder away (finished stages stay in the store either way)"
        )
    refuse_lost_ledger(directory)
    relative = not root.is_absolute() and not study.storage.on_s3
    return Prepared(study, directory, None, hooks, relative, take_over)


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
    prepared = _prepared_again(directory, hooks or Hooks(), trials=trials, given=given, take_over=take_over)
    return _run(prepared, debug=debug, catch=catch, address=address)


def _prepared_again(
    directory: Path | str,
    hooks: Hooks,
    *,
    trials: int | None = None,
    given: StudyConfig | None = None,
    take_over: bool = False,
) -> Prepared:
    """Return a study that goes on."""
    if not begun(directory) and (Path(directory) / STUDY).is_file():  # killed before the ledger's first line
        refuse_lost_ledger(Path(directory))
        study = read_study(Path(directory) / STUDY, [] if trials is None else [f"search.trials={trials}"])
        return Prepared(study, Path(directory).absolute(), None, hooks, take_over=take_over)
    earlier = load_study(directory)
    if given is None and earlier.study.storage.on_s3:  # where a driver elsewhere may have gone on with it
        given = earlier.study
        fetch_begun(given, earlier.directory, take_over=take_over)
        earlier = load_study(directory)
    study = earlier.study if given is None else with_given(earlier.study, given)
    if trials is not None:
        check_trials(earlier, trials)
        study = study.model_copy(update={"search": study.search.model_copy(update={"trials": trials})})
    return Prepared(study, earlier.directory, earlier, hooks, take_over=take_over)


def run_studies(
    studies: Sequence[tuple[StudyConfig, Hooks]], output: Path, *, debug: bool = False, address: str | None = None
) -> None:
    """Run studies in the order given, or go on with them.

    On Ray those in a row that are alike (`ddcal.study.run.in_turn.studies`) have the same workers, and each begins when
    the one before has no trial left to hand out.

    Args:
        studies: Each with what to call while it runs.
        output: The output root of all, absolute.
        debug: As in `run_study`.
        address: As in `run_study`.

    Raises:
        BadInput, ResourceError, StoreError, DataError, KeyboardInterrupt: as `run_study`, of one of them; what is
            finished of the others stays.
    """

    def known(study: StudyConfig) -> StudyConfig:
        return load_study(output / study.name).study if begun(output / study.name) else study

    def preparing(study: StudyConfig, hooks: Hooks) -> Callable[[], Prepared]:
        if begun(output / study.name):
            return lambda: _prepared_again(output / study.name, hooks, trials=study.search.trials)
        return lambda: _prepared(study, output, hooks)

    groups = list[list[Callable[[], Prepared]]]()
    last: StudyConfig | None = None
    for study, hooks in studies:
        present = known(study)
        if debug or last is None or not alike(last, present):
            groups.append([])
        groups[-1].append(preparing(study, hooks))
        last = present
    for group in groups:
        if debug:
            _run(group[0](), debug=True, catch=True, address=address)
        else:
            run_in_turn(iter(group), address)


def _run(prepared: Prepared, *, debug: bool, catch: bool, address: str | None) -> StudyResults:
    if not debug:
        return run_in_turn(iter([lambda: prepared]), address)[0]
    from ddcal.study.run.debug import debug_device, run_in_process

    study, hooks = prepared.study, prepared.hooks
    with (
        stops_the_study(prepared.directory, hooks.command),
        interruptible(hooks.on_interrupt) as interrupts,
        stopped_before(study.stop.before_seconds),
    ):
        prepared.check()
        environment = study_environment(study, debug_device(study))

        def on_advance(advance: Advance) -> None:  # between two pieces of work, where a trial's state can be saved
            if hooks.on_advance is not None:
                hooks.on_advance(advance)
            interrupts.check()

        with as_access_says(study.storage.access):
            driver = open_driver(prepared, environment)
            note = f"; scheduler {study.scheduler.name} is off" if study.scheduler.name != "none" else ""
            with closed_where_interrupted(driver):
                prepared.say(f"debug mode: one trial at a time in this process on {environment.device_kind}{note}")
            with interrupts.deferred():
                with closed_where_interrupted(driver):
                    run_in_process(driver, catch=catch, on_trial=hooks.on_trial, on_advance=on_advance)
                with notified(study, driver.directory):
                    results = driver.close(on_end=hooks.on_end)
        if hooks.on_closed is not None:
            hooks.on_closed(results)
        return results
