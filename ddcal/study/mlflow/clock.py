"""How long a study and its trials were worked on, from the ledger: what MLflow shows as a run's duration.

A run has one beginning and one end there. What lies between two drivers, or two attempts of a trial, is no work: so a
run ends as long after its beginning as it was worked on, which is not when its last event happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ddcal.study.record.events import (
    Event,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialAttemptFailed,
    TrialFinished,
    TrialStarted,
)
from ddcal.study.record.ledger import LEDGER, parse_event

STUDY = "study"
"""The study among the names of what is worked on; a trial's is its number."""


@dataclass(frozen=True)
class Clock:
    """Where the clocks of a study and of its unfinished trials stand after some event of the ledger.

    Attributes:
        seen: When the last event was written, in milliseconds since 1970.
        began: Since when each is worked on that is.
        worked: How many milliseconds each was worked on before that.
    """

    seen: int = 0
    began: Mapping[str, int] = field(default_factory=dict)
    worked: Mapping[str, int] = field(default_factory=dict)

    def after(self, event: Event) -> Clock:
        """Return where they stand after the next event; nothing is changed."""
        clock = self
        match event:
            case StudyStarted():
                clock = clock._begin(STUDY, event.time)
            case StudyResumed():  # a driver that was killed has worked until its last event, or a little longer
                clock = clock._stop(self.seen)._begin(STUDY, event.time)
            case StudyFinished():
                clock = clock._stop(event.time)
            case TrialStarted(number=number):
                clock = clock._stop(event.time, str(number))._begin(str(number), event.time)
            case TrialAttemptFailed(number=number):
                clock = clock._stop(event.time, str(number))
            case TrialFinished(number=number):
                clock = clock._forget(str(number))
        return replace(clock, seen=max(self.seen, event.time))

    def worked_until(self, time: int, who: str) -> int:
        """Return for how many milliseconds a trial, or the study, has been worked on at ``time``."""
        now = max(0, time - self.began[who]) if who in self.began else 0
        return self.worked.get(who, 0) + now

    def _begin(self, who: str, time: int) -> Clock:
        return replace(self, began={**self.began, who: time})

    def _stop(self, time: int, who: str | None = None) -> Clock:
        """Stop one, or all."""
        stopped = {name: self.worked_until(time, name) for name in self.began if who in (None, name)}
        began = {name: since for name, since in self.began.items() if name not in stopped}
        return replace(self, began=began, worked={**self.worked, **stopped})

    def _forget(self, who: str) -> Clock:
        began, worked = (
            {name: one for name, one in times.items() if name != who} for times in (self.began, self.worked)
        )
        return replace(self, began=began, worked=worked)


def clock_at(directory: Path, offset: int) -> Clock:
    """Return where the clocks stand at a byte of a study's ledger, where an event begins."""
    clock, place = Clock(), 0
    if offset == 0:
        return clock
    with (directory / LEDGER).open("rb") as stream:
        for line in stream:
            place += len(line)
            if place > offset:
                break
            clock = clock.after(parse_event(line))
    return clock
