"""Running studies in turn on one Ray, and whatever happens to them meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ddcal.config import StudyConfig
from ddcal.errors import StoreError
from ddcal.study.notify import notified
from ddcal.study.record.results import StudyResults
from ddcal.study.record.rights import as_access_says
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.in_turn.opening import closed_where_interrupted, open_on_ray
from ddcal.study.run.in_turn.prepared import Prepared
from ddcal.study.run.in_turn.relay import Relay
from ddcal.study.run.interrupt import Interrupts, end_process, interruptible, say, stopped_before
from ddcal.study.run.ray_executor import ray_runtime, run_on_ray
from ddcal.study.run.unusable import stop_sentence, stops_the_study

logger = logging.getLogger(__name__)


def alike(one: StudyConfig, other: StudyConfig) -> bool:
    """Return whether the trials of two studies may run on the same workers, one study's beside the other's last ones.

    They may where the trials are of one kind and have the same resources, each study without what is its own while it
    runs: a scheduler, a GPU, S3, hours of its own, a time before the end of a job.
    """
    return _of_workers(one) == _of_workers(other) and all(map(_shares_workers, (one, other)))


def _of_workers(study: StudyConfig) -> tuple[Any, ...]:
    return study.trial, study.resources, study.search.concurrency, study.storage.access


def _shares_workers(study: StudyConfig) -> bool:
    own = study.scheduler.name != "none" or bool(study.resources.gpu) or study.storage.on_s3
    return not own and study.stop.before_seconds is None and study.stop.hours is None


def run_in_turn(studies: Iterator[Callable[[], Prepared]], address: str | None) -> list[StudyResults]:
    """Run studies on Ray: each begins when the one before has no trial left to hand out.

    Args:
        studies: Prepare one study each, when it is its turn; all are `alike`, and there is one at least.
        address: A Ray cluster's address; None takes ``RAY_ADDRESS`` if it is set, or starts a local Ray.

    Returns:
        Their results, in the order in which they end.

    Raises:
        BadInput, ResourceError, StoreError: as `ddcal.study.run.runner.run_study`, of any of them; all that have begun
            keep what is finished.
        KeyboardInterrupt: after a Ctrl-C or SIGTERM, when the running trials have saved their state.
    """
    running = _Running(next(studies)(), studies)
    first = running.first
    with (
        running.told(),
        interruptible(first.hooks.on_interrupt) as interrupts,
        stopped_before(first.study.stop.before_seconds),
    ):
        first.check()
        first.say("starting" if address is None else f"connecting to Ray at {address}")
        with ray_runtime(address) as ray, as_access_says(first.study.storage.access):  # not what Ray itself writes
            return running.run(ray, interrupts)


class _Running:
    """Studies in turn while they run."""

    def __init__(self, first: Prepared, others: Iterator[Callable[[], Prepared]]) -> None:
        self.first, self._others = first, others
        self._prepared: dict[StudyDriver, Prepared] = {}
        self._relay: Relay | None = None
        self._refused: Exception | None = None
        self._results: list[StudyResults] = []

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise what a place does not take as `stops_the_study` does, of the study that it is about."""
        try:
            yield
        except Exception as error:
            if error is self._refused:
                raise
            concerned = self._concerned
            with stops_the_study(concerned.directory, concerned.hooks.command):
                raise

    def run(self, ray: Any, interrupts: Interrupts) -> list[StudyResults]:
        """Run them all and return their results."""
        self._relay = relay = Relay(self._opened(self.first, ray), lambda: self._next(ray), self._close)
        try:
            run_on_ray(relay, ray, interrupts, self._abandon)
        except BaseException:
            with interrupts.deferred(), ExitStack() as stack:
                for driver in relay.open:
                    stack.enter_context(closed_where_interrupted(driver))
                raise
        with interrupts.deferred():
            self._close(relay.present)
        if self._refused is not None:
            raise self._refused
        return self._results

    @property
    def _concerned(self) -> Prepared:
        return self.first if self._relay is None else self._prepared[self._relay.failed or self._relay.present]

    def _opened(self, prepared: Prepared, ray: Any) -> StudyDriver:
        driver = open_on_ray(prepared, ray)
        self._prepared[driver] = prepared
        return driver

    def _next(self, ray: Any) -> StudyDriver | None:
        """Open the next study; where it is refused, those that have begun come to their end first."""
        prepare = None if self._refused is not None else next(self._others, None)
        if prepare is None:
            return None
        try:
            prepared = prepare()
            with stops_the_study(prepared.directory, prepared.hooks.command):
                prepared.check()
                return self._opened(prepared, ray)
        except Exception as error:
            logger.warning("the next study is refused, and those that run come to their end first: %s", error)
            self._refused = error
            return None

    def _close(self, driver: StudyDriver) -> None:
        hooks = self._prepared[driver].hooks
        with notified(driver.study, driver.directory):
            results = driver.close(on_end=hooks.on_end)
        self._results.append(results)
        if hooks.on_closed is not None:
            hooks.on_closed(results)

    def _abandon(self, error: StoreError) -> None:
        """Close drivers whose main thread waits for a Ray that is gone, and end this process before Ray does."""
        assert self._relay is not None
        concerned = self._concerned
        words = stop_sentence(concerned.directory, str(error), error.cure, concerned.hooks.command)
        if concerned.hooks.on_lost is None:
            say(2, f"{words}\n")
        else:
            concerned.hooks.on_lost(words)
        for driver in self._relay.open:
            with suppress(BaseException), notified(driver.study, driver.directory):
                driver.close(interrupted=True)
                raise error
        end_process(1)
