"""The drivers of studies that run in turn: one hands out trials, others wait for their last ones.

A study that waits for its last trials leaves workers idle, and a new worker imports torch and Ray for seconds. So the
next study begins as soon as the one before has no trial left to hand out, and its trials go to the workers that are
there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ddcal.study.run.driver import STOP, StudyDriver


def no_driver() -> StudyDriver | None:
    """Return that no study follows."""
    return None


class Relay:
    """The drivers at work.

    Attributes:
        present: The one that hands out trials, or did so last.
        open: All that are not closed, the present one among them, oldest first.
        failed: The one that has raised what `settle` or a searcher was told, if any.
        through: Whether no trial will be handed out any more.
    """

    def __init__(
        self,
        first: StudyDriver,
        following: Callable[[], StudyDriver | None] = no_driver,
        ended: Callable[[StudyDriver], None] | None = None,
    ) -> None:
        """Begin with one driver.

        Args:
            first: The driver of the first study.
            following: Opens the next study and returns its driver; None where there is none.
            ended: Closes a driver that is not the present one when its last trial has ended.
        """
        self.present, self.open = first, [first]
        self.failed: StudyDriver | None = None
        self.through = False
        self._following, self._ended = following, ended

    @property
    def running(self) -> int:
        """How many trials of all drivers are handed out and not finished."""
        return sum(driver.running for driver in self.open)

    @property
    def full(self) -> bool:
        """Whether as many trials run as the present study lets run at a time."""
        return self.running >= self.present.study.search.concurrency

    def handing_out(self) -> StudyDriver | None:
        """Return the driver that has trials to hand out, the next study's if need be; None after the last."""
        while self.present.exhausted:
            following = self._following()
            if following is None:
                self.through = True
                return None
            self.open.append(following)
            self.present = following
            self._let_go_on(following)
            self.settle()
        return self.present

    def settle(self) -> None:
        """Close every driver but the present one whose last trial has ended."""
        for driver in [one for one in self.open if one is not self.present and not one.running]:
            self.open.remove(driver)
            try:
                if self._ended is not None:
                    self._ended(driver)
                self._let_go_on(driver)
            except BaseException:
                self.failed = driver
                raise

    def stop(self) -> None:
        """Tell the workers of all drivers to save their state and stop."""
        for driver in self.open:
            with suppress(OSError):  # a full disk: then Tune ends them, some seconds later
                (driver.directory / STOP).touch()

    def forget_stop(self) -> None:
        """Remove what `stop` has left, or a driver that was killed."""
        for driver in self.open:
            self._let_go_on(driver)

    def _let_go_on(self, driver: StudyDriver) -> None:
        (driver.directory / STOP).unlink(missing_ok=True)
