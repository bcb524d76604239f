"""The debug executor: one trial after another in this process, without Ray; breakpoints work."""

from __future__ import annotations

from collections.abc import Callable

from ddcal.pipeline import Advance, DatasetCache
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.worker import Assignment, Worker


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
