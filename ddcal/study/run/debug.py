"""The debug executor: one trial after another in this process, without Ray; breakpoints work."""

from __future__ import annotations

from collections.abc import Callable

from ddcal.config import StudyConfig
from ddcal.errors import ResourceError
from ddcal.pipeline import Advance, DatasetCache
from ddcal.pipeline.environment import gpu_device
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.worker import Assignment, Worker


def debug_device(study: StudyConfig) -> str:
    """Return the device of a study's trials in this process.

    Raises:
        ResourceError: if trials ask for a GPU and there is none.
    """
    if not study.resources.gpu:
        return "cpu"
    device = gpu_device()
    if device is None:
        raise ResourceError(
            f"resources.gpu: a trial asks for {study.resources.gpu} but this machine has no GPU that torch sees: "
            "set it to 0 to run on the CPU"
        )
    return device


def run_in_process(
    driver: StudyDriver,
    *,
    catch: bool = True,
    on_trial: Callable[[Assignment], None] | None = None,
    on_advance: Callable[[Advance], None] | None = None,
) -> None:
    """Run every trial of the study in this process.

    Args:
        driver: The study.
        catch: Whether a trial's exception becomes its outcome (as on Ray) or stops here, where a debugger can look.
        on_trial: Called as a trial begins.
        on_advance: Called after every chunk of a trial's work.
    """
    datasets = DatasetCache()
    while not driver.exhausted:
        assignment = driver.next_assignment()
        assert assignment is not None, "nothing runs, so there is nothing to wait for"
        if on_trial is not None:
            on_trial(assignment)
        worker = Worker(assignment, datasets, catch=catch, on_advance=on_advance)
        try:
            while driver.running:
                driver.on_result(assignment.number, worker.step())
        finally:
            worker.close()
