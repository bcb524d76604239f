"""Computing the experts stage: an entry an expert, which trials share, and one that lists them.

An expert's key says nothing of how many there are, so a trial that wants more of them trains the new ones alone, and
two trials that want some of the same share the work.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddcal.config import TrialConfig
from ddcal.data import Dataset, Split
from ddcal.distill.experts import TRAJECTORY, Experts, ExpertTraining
from ddcal.pipeline import measuring
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import BATCHES, QUIET
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.experts import EXPERTS, expert_keys
from ddcal.store.base import Entry, Store
from ddcal.store.leases import Lease, Leases

logger = logging.getLogger(__name__)

LIST = "experts.json"
WAIT_SECONDS = 0.2
"""How long one step waits where other processes train all the experts that are missing."""


def begin(place: TrialPlace) -> ExpertsWork:
    """Return the stage with nothing looked up yet."""
    keys = expert_keys(place.config, place.fingerprint, place.environment)
    return ExpertsWork(
        place.config,
        place.dataset,
        place.environment.device,
        keys,
        place.store,
        place.leases,
        place.gpu,
        place.environment.compile,
    )


def experts_of(place: TrialPlace) -> Experts | None:
    """Return the trajectories of the finished stage; None for a trial that has none."""
    if EXPERTS.name not in place.keys:
        return None
    work = begin(place)
    while work.fraction < 1.0:  # looks them up; what was removed meanwhile is trained again
        work.step()
    return work.experts()


class ExpertsWork:
    """The experts stage: takes experts from the store, or trains them, an epoch a step, and puts them there.

    Attributes:
        curve: Empty: experts have no fidelity points.
        waited: Seconds spent waiting for experts that other processes train.
        entries: Index → the entry of an expert that is done.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        device: str,
        keys: Sequence[str],
        store: Store,
        leases: Leases,
        gpu: float = 0.0,
        compiled: bool = False,
    ) -> None:
        """Begin; nothing is looked up yet.

        Args:
            config: Resolved.
            dataset: The real data.
            device: Where to train.
            keys: Of every expert, from `ddcal.pipeline.stages.experts.expert_keys`.
            store: Where experts are.
            leases: Tell which experts other processes train.
            gpu: The share of a GPU that this process may use, noted with what it trains.
            compiled: Whether the networks are compiled.
        """
        self.config, self.dataset, self.device, self.keys = config, dataset, torch.device(device), list(keys)
        self.curve: list[dict[str, float]] = []
        self.waited = 0.0
        self.entries: dict[int, Entry] = {}
        self._store, self._leases, self._gpu, self._compiled = store, leases, gpu, compiled
        self._training: ExpertTraining | None = None
        self._seconds = 0.0  # of the expert in training
        self._lease: Lease | None = None
        self._asked = 0  # which of the missing experts is looked at next
        self._trained = 0

    @property
    def fraction(self) -> float:
        """The share of the experts' epochs that is done."""
        if len(self.entries) == len(self.keys):
            return 1.0
        done = self._training.epoch / (self._training.epochs + 1) if self._training is not None else 0.0
        return (len(self.entries) + done) / len(self.keys)

    def step(self) -> None:
        """Look up one expert, or train one for one epoch; where others train all that are missing, wait for a moment.

        Raises:
            DivergedError: if a loss or a weight is not finite.
            StoreError: if the store cannot be written.
        """
        if self._training is not None and self._lease is None and not self._claim(self._training.index):
            self._training = None  # of a checkpoint: another process has it by now
        training = self._training
        if training is None:
            self._next()
            return
        began = time.perf_counter()
        if training.epoch < training.epochs:
            training.step()
        self._seconds += time.perf_counter() - began
        if training.epoch == training.epochs:
            self._publish(training)

    def state(self) -> dict[str, Any]:
        """Return the unfinished expert; finished ones are in the store."""
        if self._training is None:
            return {"index": -1}
        return {"index": self._training.index, "expert": self._training.state(), "seconds": self._seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        index = state["index"]
        for other, key in enumerate(self.keys):  # so that `fraction` is right at once
            self._look_up(other, key)
        if index < 0 or index in self.entries:
            return
        self._training = self._expert(index)
        self._training.restore(state["expert"])
        self._seconds = state["seconds"]

    def meta(self) -> dict[str, Any]:
        """Return the seconds that all experts took, whoever trained them, their keys, and metrics of them.

        ``experts/relative_error`` is the most that ``precision`` moves the weights of any epoch of any expert.
        """
        ordered = [self.entries[index].meta for index in range(len(self.keys))]
        values = [meta["values"] for meta in ordered]
        facts = {
            "experts/loss": sum(one["losses"][-1] for one in values) / len(values),
            "experts/relative_error": max(error for one in values for error in one["relative_errors"]),
        }
        return {"seconds": sum(meta["seconds"] for meta in ordered), "members": self.keys, "facts": facts}

    def write(self, folder: Path) -> None:
        """Write the list of the experts: the sums of their trajectories, their losses and rounding errors."""
        there = len(self.keys) - self._trained
        logger.info("experts: %d trained by this process, %d were in the store", self._trained, there)
        experts = [
            {"sha256": entry.files[TRAJECTORY], **entry.meta["values"]} for _, entry in sorted(self.entries.items())
        ]
        (folder / LIST).write_text(json.dumps({"experts": experts}, indent=1, sort_keys=True))

    def experts(self) -> Experts:
        """Return the trajectories of the finished stage."""
        return Experts([self.entries[index].folder for index in range(len(self.keys))])

    def close(self) -> None:
        """Let others train the unfinished expert."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _next(self) -> None:
        missing = [index for index in range(len(self.keys)) if index not in self.entries]
        if not missing:  # another process has published the one of a checkpoint
            return
        self._asked %= len(missing)
        index = missing[self._asked]
        if self._look_up(index, self.keys[index]):
            return
        if self._claim(index):
            if index not in self.entries:
                self._training = self._expert(index)
                self._seconds = 0.0
            return
        self._asked += 1
        if self._asked == len(missing):  # others train them all
            began = time.monotonic()
            time.sleep(WAIT_SECONDS)
            self.waited += time.monotonic() - began

    def _claim(self, index: int) -> bool:
        """Take the lease on an expert; False while another process has it. It may turn out to be there by then."""
        lease = self._leases.take(self.keys[index])
        if lease is None:
            return False
        if self._look_up(index, self.keys[index]):
            lease.release()
            self._training = None
        else:
            self._lease = lease
        return True

    def _look_up(self, index: int, key: str) -> bool:
        entry = self._store.get(EXPERTS.name, key)
        if entry is None:
            return False
        self.entries[index] = entry
        return True

    def _expert(self, index: int) -> ExpertTraining:
        config = self.config
        return ExpertTraining(self.dataset, config.distill, config.seed, index, self.device, self._compiled)

    def _publish(self, training: ExpertTraining) -> None:
        def write(folder: Path) -> dict[str, Any]:
            training.save(folder)
            values = {"losses": training.losses, "relative_errors": training.errors}
            config = self.config.model_dump(mode="json")
            return {
                "seconds": self._seconds,
                "gpu": self._gpu,
                "expert": training.index,
                "values": values,
                "config": config,
            }

        self.entries[training.index] = self._store.publish(EXPERTS.name, self.keys[training.index], write)
        logger.info(
            "experts: %d of %d trained in %.1f s, loss %.4f; %s moves its weights by %.1e at most",
            training.index + 1,
            len(self.keys),
            self._seconds,
            training.losses[-1],
            self.config.distill.mtt.experts.precision,
            max(training.errors),
        )
        self._training, self._seconds, self._trained = None, 0.0, self._trained + 1
        self.close()


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of an epoch of an expert."""
    mtt, batch = config.distill.mtt, config.distill.mtt.experts.batch_size
    total, measured = len(dataset.train), BATCHES * batch
    quiet = mtt.experts.model_copy(update={"lr": QUIET})
    distill = config.distill.model_copy(update={"mtt": mtt.model_copy(update={"experts": quiet})})
    part = replace(dataset, train=Split(dataset.train.images[:measured], dataset.train.labels[:measured]))
    training = ExpertTraining(part, distill, config.seed, 0, torch.device(device), compiled)
    return Cost(
        measuring.seconds_of(training.step, device) * math.ceil(total / batch) / math.ceil(len(part.train) / batch)
    )
