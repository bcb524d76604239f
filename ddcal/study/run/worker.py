"""What runs one trial inside a process, Ray actor or not: `TrialRunner` with a log file, and errors as outcomes."""

from __future__ import annotations

import logging
import math
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from ddcal.allocator import give_memory_back
from ddcal.config import TrialConfig
from ddcal.config.metrics import VAL_METRICS
from ddcal.config.study import Access
from ddcal.errors import BadInput, StoreError, cure_of, disk_error
from ddcal.pipeline import Advance, DatasetCache, Environment, Store, TrialRunner, open_store
from ddcal.pipeline.advance import stage_share
from ddcal.pipeline.compute.distill import probed_on
from ddcal.pipeline.compute.train import test_set_of
from ddcal.pipeline.heartbeat import Heart
from ddcal.pipeline.stages import STAGES
from ddcal.pipeline.trial import CHECKPOINT_SECONDS
from ddcal.store.leases import Leases, open_leases
from ddcal.study.gpu.memory import GpuMemory, free_memory, ran_out_of_memory
from ddcal.study.gpu.packing import FRACTIONS
from ddcal.study.record.ledger import FIDELITY_STEPS, Outcome
from ddcal.study.run.trial_log import TrialLog

logger = logging.getLogger("ddcal")

BEGINS = "see that every machine of the study has its data, its packages and this ddcal"
COMPUTES = "see that its GPU works (`nvidia-smi`) and that memory is free there"
"""What to do about a machine on which no trial begins."""

STOP_SECONDS = 0.5
"""How often, at most, a worker looks whether it is to stop."""
WAIT_REPORT_SECONDS = 2.0
"""A worker that waits for another's stage reports this often, without points, so that Tune can stop it."""


class LostProcess(StoreError):
    """No trial can begin in this process any more, as after an error of CUDA's: its next one begins in another."""


@dataclass(frozen=True)
class Assignment:
    """One trial as the driver hands it to a worker; plain JSON values, every path absolute.

    Attributes:
        trial: The trial's config, ``TrialConfig`` as a dictionary.
        store: Folder or URL of the artefact store.
        cache: The node's folder of copies of it, or None for the default.
        number: Trial number in the study.
        trial_key: The trial's name for ever, also over restarts.
        log: The trial's log file, or None.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: torch's thread count.
        precision: ``"float32"`` or ``"tf32"``.
        compile: Whether loops of first derivatives are compiled.
        target: ``ddnn`` or ``distill``.
        bundle_cached: Report cached points together with the next computed one (no scheduler needs them one by one).
        checkpoint_seconds: How often an unfinished stage is saved in the store.
        attempt: Which attempt at the trial this is.
        cache: The folder of copies that the study names, or None.
        gpu: The share of a GPU that the trial has, noted with what it computes; 0 on the CPU.
        context: Bytes of a CUDA context as measured, or None.
        stop: A file that tells the worker to save its state and stop, or None.
        stop_signal: The name of the actor that tells it too, where it need not see that file
            (`ddcal.study.remote.stop_signal`); else None.
        access: Who may write what the trial writes: with ``group``, the group too, whatever the node's umask is.
    """

    trial: dict[str, Any]
    store: str
    number: int = 0
    trial_key: str = "trial"
    log: str | None = None
    device: str = "cpu"
    threads: int = 1
    target: str = "ddnn"
    bundle_cached: bool = False
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    attempt: int = 1
    cache: str | None = None
    gpu: float = 0.0
    context: int | None = None
    stop: str | None = None
    stop_signal: str | None = None
    access: Access = "private"
    precision: Literal["float32", "tf32"] = "float32"
    compile: bool = False

    def to_config(self) -> dict[str, Any]:
        """Return the assignment as a Tune config."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Assignment:
        """Read a Tune config; keys that are not an assignment's are ignored."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in config.items() if name in names})


class Worker:
    """Runs one assignment; `step` goes on to the next report."""

    def __init__(
        self,
        assignment: Assignment,
        datasets: DatasetCache,
        *,
        catch: bool = True,
        on_advance: Callable[[Advance], None] | None = None,
        node: str | None = None,
        leases: Callable[[Store], Leases] = open_leases,
        signalled: Callable[[], bool] | None = None,
    ) -> None:
        """Prepare the trial.

        Args:
            assignment: What to run.
            datasets: Kept by the process between its trials.
            catch: Whether the trial's own exceptions become outcomes; off under a debugger.
            on_advance: Called after every chunk of work.
            node: The node of the cluster that this is; default: the machine's name.
            leases: Returns the leases of the trial's store.
            signalled: Returns whether the worker is told to stop by another way than a file.
        """
        self.node = node or socket.gethostname()
        self.assignment, self.datasets, self.catch, self.on_advance = assignment, datasets, catch, on_advance
        self.runner: TrialRunner | None = None
        self.memory = GpuMemory("cpu", 0.0, None)
        self.began = self._asked = time.monotonic()
        self._stopping = False
        self._log: TrialLog | None = None
        self._heart: Heart | None = None
        self._restored: dict[str, Any] | None = None
        self._leases, self._signalled = leases, signalled
        self._last: list[dict[str, Any]] = []  # the last point that was reported

    def step(self) -> dict[str, Any]:
        """Run to the next report and return it.

        Returns:
            ``progress``, ``fidelity`` and ``stage``, every search metric (NaN where there is none), ``complete``,
            ``points`` (all points since the last report), ``gpu`` (what was measured, if anything) and, if the trial is
            over, ``done`` and ``records``: one record of outcome, metrics, keys, seconds and error. Both are lists,
            because Tune flattens dictionaries. A worker that is told to stop saves its state and returns without a new
            point. One that cannot go on because a place takes nothing more (a full disk), or cannot begin a trial that
            the driver could plan, is ``done`` without a record: the trial is unfinished, and ``unusable`` says what is
            wrong and what to do.

        Raises:
            LostProcess: if the trial cannot begin here and may begin in another process.
        """
        points: list[dict[str, Any]] = []
        try:
            done = self._run(points)
        except Exception as error:
            if not self.catch:
                raise
            if isinstance(error, StoreError) or disk_error(error):
                return self._unfinished(error, points)
            if self.runner is None and not ran_out_of_memory(error):
                return self._unfinished(self._not_begun(error), points)
            return self._failed(error, points)
        report = self._report(points)
        if done:
            assert self.runner is not None
            report |= {"done": True, "records": [self._record("complete", self.runner.metrics)]}
            self.close()
        return report

    def _run(self, points: list[dict[str, Any]]) -> bool:
        """Go on to the next report, append its points, and return whether the trial is done."""
        runner, began = self.runner or self._start(), time.monotonic()
        while True:
            if self._told_to_stop():
                runner.checkpoint()
                return False
            advance = runner.advance()
            if self._log is not None:
                self._log.check()
            self.memory.note(advance, ended=advance.stage in runner.entries)
            if self._heart is not None:
                share = stage_share(advance.stage, advance.progress, runner.target, advance.fraction)
                self._heart.beat(advance.stage, share, advance.progress, advance.waiting)
            if self.on_advance is not None:
                self.on_advance(advance)
            if advance.point is not None:
                points.append(advance.point)
                if runner.done or not (self.assignment.bundle_cached and advance.cached):
                    return runner.done
            waited = advance.waiting and time.monotonic() - began >= WAIT_REPORT_SECONDS
            if waited and self.assignment.bundle_cached:  # a scheduler would take it for a point
                return False

    def _told_to_stop(self) -> bool:
        if self.assignment.stop is not None and time.monotonic() - self._asked > STOP_SECONDS:
            self._asked = time.monotonic()
            signalled = self._signalled is not None and self._signalled()
            self._stopping = self._stopping or signalled or Path(self.assignment.stop).exists()
        return self._stopping

    def state(self) -> dict[str, Any]:
        """Return the trial's state for a Tune checkpoint."""
        return self.runner.state() if self.runner is not None else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state` at the next step."""
        self._restored = state or None

    def close(self) -> None:
        """Save an unfinished stage, if the store takes it, and release the log file."""
        try:
            if self.runner is not None:
                self.runner.close()
        except StoreError as error:  # the trial goes on from what was saved before
            logger.warning("the state of trial %s is not saved: %s", self.assignment.trial_key, error)
        finally:
            if self._heart is not None:
                self._heart.stop()
                self._heart = None
            if self._log is not None:
                self._log.close()
                self._log = None
            give_memory_back()

    def _start(self) -> TrialRunner:
        assignment = self.assignment
        if assignment.log is not None and self._log is None:
            self._log = TrialLog(Path(assignment.log))
            self._heart = Heart(Path(assignment.log), assignment.attempt)
        logger.info("trial %s begins on %s", assignment.trial_key, self.node)
        self.memory = GpuMemory(assignment.device, assignment.gpu, assignment.context)
        store = open_store(assignment.store, assignment.cache)
        self.runner = TrialRunner(
            TrialConfig.model_validate(assignment.trial),
            store,
            Environment(assignment.device, assignment.threads, assignment.precision, compile=assignment.compile),
            target=assignment.target,
            datasets=self.datasets,
            checkpoint_seconds=assignment.checkpoint_seconds,
            leases=self._leases(store),
            gpu=assignment.gpu,
        )
        if self._restored is not None:
            try:
                self.runner.restore(self._restored)
            except ValueError as error:  # another GPU model, or a store that was pruned: begin again
                logger.warning("the trial begins again: %s", error)
                self._restored = None
                return self._start()
        return self.runner

    def _report(self, points: list[dict[str, Any]]) -> dict[str, Any]:
        self._last = points[-1:] or self._last
        last: dict[str, Any] = self._last[0] if self._last else {"progress": 0.0, "stage": "", "complete": False}
        searched = {name: last.get(name, math.nan) for name in VAL_METRICS}
        fidelity = round(last["progress"] * FIDELITY_STEPS)
        return {
            "progress": last["progress"],
            "fidelity": fidelity,
            "stage": last["stage"],
            "complete": last["complete"],
            "points": points,
            "gpu": self.memory.measured(),
            **searched,
        }

    def _record(self, outcome: Outcome, metrics: dict[str, Any], error: str | None = None) -> dict[str, Any]:
        runner = self.runner
        logger.info("trial %s is %s after %.2f s", self.assignment.trial_key, outcome, time.monotonic() - self.began)
        return {
            "outcome": outcome,
            "metrics": metrics,
            "keys": runner.keys if runner else {},
            "cache_hits": runner.cache_hits if runner else [],
            "stage_seconds": runner.seconds if runner else {},
            "stage_gpus": runner.gpus if runner else {},
            "waited_seconds": runner.waited if runner else 0.0,
            "seconds": time.monotonic() - self.began,
            "node": self.node,
            "error": error,
            "log": self.assignment.log,
            "fingerprint": runner.fingerprint if runner else None,
            "tested_on": self._tested_on() if metrics else None,
        }

    def _tested_on(self) -> dict[str, int] | None:
        assert self.runner is not None, "what has metrics has run"
        place = self.runner.place
        try:
            return probed_on(place) if self.assignment.target == "distill" else test_set_of(place)
        except (OSError, SafetensorError) as error:  # the trial has its result: only that is not known
            logger.warning("the images that the trial was tested on cannot be counted: %s", error)
            return None

    def _unfinished(self, error: Exception, points: list[dict[str, Any]]) -> dict[str, Any]:
        logger.error("trial %s stops, unfinished: %s", self.assignment.trial_key, error)
        if isinstance(error, StoreError | BadInput):
            said, cure = str(error), error.cure if isinstance(error, StoreError) else cure_of(disk_error(error))
        else:
            found = disk_error(error)
            assert found is not None
            said, cure = f"{found.filename or self._doing()}: {found.strerror}", cure_of(found)
        report = self._report(points)
        self.close()
        return report | {"done": True, "unusable": [said, cure], "node": self.node}

    def _not_begun(self, error: Exception) -> StoreError:
        """Return what keeps this machine from beginning the trial: nothing of it has run, so it is not its fault.

        Raises:
            LostProcess: instead, if another process may begin it.
        """
        logger.error("%s", "".join(traceback.format_exception(error)))
        said = f"{self.assignment.trial_key} cannot begin: {type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and self.assignment.device != "cpu"):
            self.close()
            raise LostProcess(f"{said} (on {self.node.partition('/')[0]})", COMPUTES) from error
        return StoreError(said, BEGINS)

    def _doing(self) -> str:
        stages = () if self.runner is None else (one for one in self.runner.keys if one not in self.runner.entries)
        return f"trial {self.assignment.trial_key}, stage {next(iter(stages), 'none yet')}"

    def _failed(self, error: Exception, points: list[dict[str, Any]]) -> dict[str, Any]:
        outcome: Outcome = "failed"
        said = f"{type(error).__name__}: {error}"
        if ran_out_of_memory(error):
            outcome, said = "out_of_memory", f"{said.splitlines()[0]} {self._what_helps()}"
            if self.runner is not None:  # no name for it here: it must be free when the cache is emptied
                self.memory.ran_out(next(stage for stage in self.runner.keys if stage not in self.runner.entries))
        logger.error("%s", "".join(traceback.format_exception(error)))
        record = self._record(outcome, {}, said)
        self.runner = None
        report = self._report(points) | {name: math.nan for name in VAL_METRICS} | {"complete": False}
        self.close()
        if outcome == "out_of_memory":
            free_memory(error)
        return report | {"done": True, "records": [record]}

    def _what_helps(self) -> str:
        gpu = self.assignment.gpu
        share = f"{FRACTIONS.get(gpu, f'{gpu:g}')} of a GPU" if 0.0 < gpu < 1.0 else "a whole GPU"
        more = "raise resources.gpu (or set resources.on_oom: grow), or " if 0.0 < gpu < 1.0 else ""
        if self.runner is None:
            return f"(the trial had {share}; {more}lower distill.ipc, network.width or the batch sizes)"
        stage = next(stage for stage in self.runner.keys if stage not in self.runner.entries)
        less = ", then ".join(STAGES[stage].what_to_halve(self.runner.config))
        return f"(stage {stage}; the trial had {share}; {more}change one setting after the other: {less})"
