"""The one engine of a trial: `TrialRunner` goes through the stages in small steps; everything else drives it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig, resolve
from ddcal.config.metrics import METRICS
from ddcal.config.own import import_own
from ddcal.data import Dataset
from ddcal.errors import StoreError
from ddcal.pipeline.advance import Advance, span_of
from ddcal.pipeline.environment import Environment, default_device
from ddcal.pipeline.keys import stage_keys
from ddcal.pipeline.place import DatasetCache, TrialPlace
from ddcal.pipeline.stages import STAGES
from ddcal.store.base import Entry, Store
from ddcal.store.leases import Lease, Leases, open_leases
from ddcal.versions import computing_versions

if TYPE_CHECKING:
    from ddcal.pipeline.compute.base import StageWork

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 30.0
WAIT_SECONDS = 0.2
"""How long one `TrialRunner.advance` waits for a stage that another process computes."""


class TrialRunner:
    """Runs one trial; `advance` until `done`. Finished stages come from the store and go into it.

    Attributes:
        config: The resolved trial.
        keys: Stage → key.
        place: The trial as its stages see it.
        entries: Stage → entry of the stages that are finished.
        cache_hits: Stages that were answered by the store.
        seconds: Stage → seconds of computing (of the run that computed it, where cached).
        gpus: Stage → the share of a GPU with which it was computed; 0 on a CPU, or where that was not recorded.
        waited: Seconds spent waiting for stages that other processes computed.
        metrics: The final metrics once `done`.
    """

    def __init__(
        self,
        config: TrialConfig,
        store: Store,
        environment: Environment | None = None,
        *,
        target: str = "ddnn",
        datasets: DatasetCache | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        leases: Leases | None = None,
        gpu: float = 0.0,
    ) -> None:
        """Prepare the trial; nothing is loaded or computed yet.

        Args:
            config: The trial.
            store: Where stages are looked up and published.
            environment: Device, threads and precision; default: a GPU if there is one, one thread.
            target: ``ddnn`` runs to the evaluation; ``distill`` stops at the distilled set and its probe's score.
            datasets: Shared between the trials of one process.
            checkpoint_seconds: How often the state of an unfinished stage is saved, in seconds.
            leases: Tell what other processes compute; default: those of the store.
            gpu: The share of a GPU that this process may use, noted with what it computes.

        Raises:
            ddcal.config.components.ComponentError: if a component of the user's own cannot be imported.
            ddcal.data.DataError: if the data is missing, naming where it was looked for.
            ValueError: for ``target="distill"`` with a backbone that distills nothing.
        """
        self.config = resolve(config)
        self.store = store
        self.environment = environment or Environment(default_device())
        self.target = target
        datasets = datasets or DatasetCache()
        self.fingerprint = datasets.fingerprint(self.config.data)
        import_own(self.config)
        self.keys = stage_keys(self.config, self.fingerprint, self.environment, target)
        self.cache_hits: list[str] = []
        self.seconds: dict[str, float] = {}
        self.gpus: dict[str, float] = {}
        self.waited = 0.0
        self.metrics: dict[str, Any] = {}
        self.done = False
        self._checkpoint_seconds = checkpoint_seconds
        self._plan = list(self.keys)
        self._emitted = 0  # points of the present stage that were reported
        self._work: StageWork | None = None
        self._spent = 0.0
        self._saved_at = time.monotonic()
        self._leases = leases if leases is not None else open_leases(store)
        self._lease: Lease | None = None
        self._gpu = gpu
        self.place = TrialPlace(
            self.config,
            self.keys,
            self.fingerprint,
            self.environment,
            store,
            self._leases,
            datasets,
            gpu,
        )
        self.entries = self.place.entries
        self._writable = False  # not known yet
        self._waits_for: str | None = None

    @property
    def dataset(self) -> Dataset:
        """The real data, loaded at first use."""
        return self.place.dataset

    def advance(self) -> Advance:
        """Do one chunk of work: a cached point, one small step of a stage, or a short stage.

        Where another process computes the stage that comes next, wait for a moment and say so.

        Raises:
            ddcal.errors.DivergedError: if a loss is not finite.
            ddcal.errors.StoreError: if the store cannot be written.
        """
        if self.done:
            raise RuntimeError("the trial is done: nothing to advance")
        stage = self._plan[0]
        entry = self.entries.get(stage) or self._look_up(stage)
        if entry is not None:
            return self._replay(stage, entry)
        try:
            if self._lease is None and not self._may_compute(stage):
                return self._wait(stage)
            return self._compute(stage)
        except BaseException:
            self._end_lease()
            raise

    def _compute(self, stage: str) -> Advance:
        if stage in self.entries:  # published by another process just before this one took the lease
            return self._replay(stage, self.entries[stage])
        self.environment.apply()
        began = time.perf_counter()
        if self._work is None:
            self._bring_again()
        if STAGES[stage].values_file is not None:
            self._compute_short(stage, began)
            return self._replay(stage, self.entries[stage])
        work = self._work or self._begin(stage)
        waited = work.waited
        if work.fraction < 1.0 and self._emitted == len(work.curve):  # points of a checkpoint come before more work
            work.step()
        waited = work.waited - waited
        self.waited += waited
        self._spent += time.perf_counter() - began - waited
        if work.fraction >= 1.0:
            self._finish(stage, work)
        elif time.monotonic() - self._saved_at >= self._checkpoint_seconds:
            self.checkpoint()
        if self._emitted < len(work.curve):
            return self._point(stage, work.curve, cached=False)
        progress = self._progress(stage, work.fraction)
        return Advance(stage, progress, waiting=waited > 0.0, fraction=work.fraction)

    def run(self, on_advance: Callable[[Advance], None] | None = None) -> dict[str, Any]:
        """Go on to the end and return the metrics; leases and files are always released.

        Args:
            on_advance: Called after every chunk of work.

        Raises:
            DivergedError, StoreError: as `advance`.
        """
        try:
            while not self.done:
                advance = self.advance()
                if on_advance is not None:
                    on_advance(advance)
        finally:
            self.close()
        return self.metrics

    def state(self) -> dict[str, Any]:
        """Return the position in the trial and the unfinished stage's state (tensors and plain values)."""
        return {
            "config": self.config.model_dump_json(),
            "keys": dict(self.keys),
            "finished": list(self.entries),
            "plan": list(self._plan),
            "emitted": self._emitted,
            "work": self._work.state() if self._work is not None else None,
            "seconds": self._spent,
            "cache_hits": list(self.cache_hits),
            "metrics": dict(self.metrics),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned for the same config, data and environment.

        Raises:
            ValueError: if the state belongs to other ones, or the store has lost a stage that it builds on.
        """
        if state["config"] != self.config.model_dump_json():
            raise ValueError("the checkpoint belongs to a trial with another config")
        if state["keys"] != self.keys:
            raise ValueError("the checkpoint belongs to other data, another device or another thread count")
        self._plan, self.done = list(state["plan"]), not state["plan"]
        self._emitted = state["emitted"]
        self.cache_hits = list(state["cache_hits"])
        self.metrics = dict(state["metrics"])
        for stage in state["finished"]:
            entry = self.store.get(stage, self.keys[stage])
            if entry is None:
                raise ValueError(f"stage {stage} is no longer in the store {self.store.place}: start the trial again")
            self._take(stage, entry)
        if state["work"] is not None:
            self._work = STAGES[self._plan[0]].work.begin(self.place)
            self._work.restore(state["work"])
            self._spent = state["seconds"]

    def checkpoint(self) -> None:
        """Save the unfinished stage's state in the store, under the stage's key: any trial that needs it goes on."""
        self._saved_at = time.monotonic()
        if self._work is not None:
            state = {"work": self._work.state(), "seconds": self._spent}
            self.store.save_partial(self.keys[self._plan[0]], state)

    def close(self) -> None:
        """Save an unfinished stage and let others compute it; the runner may be advanced again."""
        try:
            if not self.done and self._lease is not None:
                self.checkpoint()
        finally:
            self._end_lease()

    # Stages

    def _look_up(self, stage: str) -> Entry | None:
        if self._lease is not None:  # it is this runner that computes it
            return None
        entry = self.store.get(stage, self.keys[stage])
        if entry is not None:
            self.cache_hits.append(stage)
            logger.info("%s: cached (%s), saves %.1f s", stage, self.keys[stage][:12], entry.meta["seconds"])
            self._take(stage, entry)
            self._work, self._spent = None, 0.0  # of a state that was restored after others had gone on
        return entry

    def _bring_again(self) -> None:
        """Fetch the files of finished stages once more where they are gone: a cache may be deleted at any time."""
        for stage, entry in list(self.entries.items()):
            if not entry.whole and (again := self.store.get(stage, entry.key)) is not None:
                self.entries[stage] = again

    def _take(self, stage: str, entry: Entry) -> None:
        self.entries[stage] = entry
        self.seconds[stage] = entry.meta["seconds"]
        self.gpus[stage] = entry.meta.get("gpu", 0.0)

    def _may_compute(self, stage: str) -> bool:
        """Take the lease on a missing stage; False while another process has it."""
        lease = self._leases.take(self.keys[stage])
        if lease is None:
            return False
        if self._look_up(stage) is not None:
            lease.release()
            return True
        self._lease = lease
        if not self._writable:
            self.store.check_writable()
            self._writable = True
        if self._waits_for == stage:
            logger.info("%s: the other process has ended without it", stage)
        return True

    def _wait(self, stage: str) -> Advance:
        if self._waits_for != stage:
            logger.info("%s: waits, as another process computes it (%s)", stage, self.keys[stage][:12])
            self._waits_for = stage
        began = time.monotonic()
        time.sleep(WAIT_SECONDS)
        self.waited += time.monotonic() - began
        fraction = self._work.fraction if self._work is not None else 0.0
        return Advance(stage, self._progress(stage, fraction), waiting=True)

    def _end_lease(self) -> None:
        if self._work is not None:
            self._work.close()
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _begin(self, stage: str) -> StageWork:
        work = STAGES[stage].work.begin(self.place)
        state = self.store.load_partial(self.keys[stage])
        if state is not None and not self._restored(stage, work, state):
            state, work = None, STAGES[stage].work.begin(self.place)
        if state is not None:
            logger.info("%s: goes on from its checkpoint at %.0f %%", stage, 100 * work.fraction)
        else:
            logger.info("%s: begins (%s)", stage, self.keys[stage][:12])
        self._work, self._saved_at = work, time.monotonic()
        return work

    def _restored(self, stage: str, work: StageWork, state: dict[str, Any]) -> bool:
        """Go on from a checkpoint; False after dropping one that is another stage's or somebody's own."""
        import torch

        try:
            work.restore(state["work"])
            self._spent = float(state["seconds"])
            return True
        except (StoreError, MemoryError, torch.OutOfMemoryError):
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logger.warning("the checkpoint of %s %s does not fit (%s) and is dropped", stage, self.keys[stage], told)
            self.store.drop_partial(self.keys[stage])
            return False

    def _finish(self, stage: str, work: StageWork) -> None:
        began = time.perf_counter()

        def write(folder: Path) -> dict[str, Any]:
            work.write(folder)  # what is predicted at the end takes its time too
            self._spent += time.perf_counter() - began
            config = self.config.model_dump(mode="json")
            told = {"curve": work.curve, "seconds": self._spent, "gpu": self._gpu, "config": config}
            return told | {"versions": computing_versions()} | work.meta()

        self._take(stage, self.store.publish(stage, self.keys[stage], write))
        self.seconds[stage] = self._spent  # of this trial alone, also where the store had a part of it
        self._end_lease()
        logger.info("%s: done in %.1f s", stage, self._spent)
        self._work, self._spent = None, 0.0

    def _compute_short(self, stage: str, began: float) -> None:
        found = STAGES[stage].work.compute(self.place)

        def write(folder: Path) -> dict[str, Any]:
            (folder / str(STAGES[stage].values_file)).write_text(json.dumps(found.values, indent=1, sort_keys=True))
            found.write(folder)
            seconds = time.perf_counter() - began
            told = {"curve": [], "seconds": seconds, "gpu": self._gpu, "values": found.values}
            return told | {"versions": computing_versions()} | found.meta

        self._take(stage, self.store.publish(stage, self.keys[stage], write))
        self._end_lease()
        logger.info("%s: done in %.2f s", stage, self.seconds[stage])

    # Points

    def _replay(self, stage: str, entry: Entry) -> Advance:
        curve = entry.meta["curve"]
        if self._emitted < len(curve):
            return self._point(stage, curve, cached=stage in self.cache_hits)
        self._plan.pop(0)
        self._emitted = 0
        if self._plan:
            return Advance(stage, self._progress(stage, 1.0), cached=stage in self.cache_hits)
        return self._final(stage, entry)

    def _point(self, stage: str, curve: list[dict[str, float]], cached: bool) -> Advance:
        values = curve[self._emitted]
        self._emitted += 1
        progress = self._progress(stage, values["fraction"])
        point: dict[str, Any] = {"progress": progress, "stage": stage, "complete": False}
        point |= {f"val/{name}": values[name] for name in METRICS if name in values}
        point |= {name: value for name, value in values.items() if "/" in name}  # metrics of the stage itself
        if "val/ece_10" in point and self.config.evaluate.bins == 10:
            point["val/ece"] = point["val/ece_10"]
        if stage == self._plan[-1] and self._emitted == len(curve) and stage in self.entries:  # `trial: distill`
            self._plan, self.done, self.metrics = [], True, {k: v for k, v in point.items() if k.startswith("val/")}
            self.metrics |= self._facts()
            point |= {"complete": True, **self.metrics}
        return Advance(stage, progress, point, cached)

    def _final(self, stage: str, entry: Entry) -> Advance:
        self.metrics = STAGES[stage].metrics(entry.meta) | self._facts()  # nothing of a set distilled without probes
        self.done = True
        point = {"progress": 1.0, "stage": stage, "complete": True, **self.metrics}
        return Advance(stage, 1.0, point, cached=stage in self.cache_hits)

    def _facts(self) -> dict[str, float]:
        """Return the metrics that stages have of themselves: of experts, and of an approximate gradient."""
        return {name: value for entry in self.entries.values() for name, value in entry.meta.get("facts", {}).items()}

    def _progress(self, stage: str, fraction: float) -> float:
        low, high = span_of(stage, self.target)
        return round(low + (high - low) * fraction, 6)
