"""What is known of a study before it runs: how it is given, what it tells while it runs, and whether it can."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.pipeline import Advance
from ddcal.study.notify import check_notify
from ddcal.study.record.results import StudyResults, Trial
from ddcal.study.record.study_store import check_remote_store
from ddcal.study.remote.output import output_bucket
from ddcal.study.run.checks import refuse_data, refuse_files
from ddcal.study.run.places import refuse_bytes
from ddcal.study.run.worker import Assignment
from ddcal.study.search.samplers import check_installed

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
        on_closed: When everything of a study that has come to its end is written.
    """

    on_start: Callable[[Start], None] | None = None
    on_finished: Callable[[Trial], None] | None = None
    on_trial: Callable[[Assignment], None] | None = None
    on_advance: Callable[[Advance], None] | None = None
    on_interrupt: Callable[[int, int], None] | None = None
    on_lost: Callable[[str], None] | None = None
    command: Callable[[Path], str] | None = None
    on_end: Callable[[StudyResults], None] | None = None
    on_closed: Callable[[StudyResults], None] | None = None


@dataclass(frozen=True)
class Prepared:
    """A study that may begin or go on.

    Attributes:
        study: The study, every path of it absolute.
        directory: Its folder, absolute.
        earlier: What its ledger says; None begins it.
        hooks: What to call while it runs.
        relative: Whether its output root was given relative to this process's working folder.
        take_over: As in `ddcal.study.run.runner.resume_study`.
    """

    study: StudyConfig
    directory: Path
    earlier: StudyResults | None = None
    hooks: Hooks = field(default_factory=Hooks)
    relative: bool = False
    take_over: bool = False

    @property
    def finished(self) -> int:
        """How many trials have ended already."""
        return 0 if self.earlier is None else sum(trial.outcome is not None for trial in self.earlier.records)

    def say(self, where: str, *, cpus: float | None = None, gpus: float | None = None) -> None:
        """Tell whoever listens where the study runs."""
        if self.hooks.on_start is not None:
            self.hooks.on_start(Start(self.study, self.directory, self.finished, where, cpus, gpus))

    def check(self) -> None:
        """Refuse what would fail later, and warn of what may.

        Raises:
            BadInput: if data, files or settings of the study are wrong.
        """
        refuse_bytes(self.study, self.directory.parent)
        check_installed(self.study.search.searcher)
        check_notify(self.study)
        for warning in (*refuse_data(self.study), *refuse_files(self.study)):
            logger.warning("%s", warning)
        check_remote_store(self.study)
        output_bucket(self.study)
