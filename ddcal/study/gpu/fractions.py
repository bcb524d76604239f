"""Which share of a GPU a trial gets: as given, as measured, or more than at its first attempt."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from ddcal.config import TrialConfig
from ddcal.config.study import ResourcesConfig
from ddcal.study.gpu.packing import Packing, larger_fraction, memory_groups


class Sharing(Protocol):
    """What counts of a trial.

    Attributes:
        config: The resolved trial as a dictionary.
        missing: The stages that it will compute.
        gpu: The share that it has, or had when it ran out of memory.
        grown: Whether ``gpu`` is already the larger share of a second attempt.
    """

    config: dict[str, Any]
    missing: tuple[str, ...]
    gpu: float
    grown: bool


class Shares:
    """The shares of one study's trials."""

    def __init__(self, resources: ResourcesConfig, gpus: float | None, packing: Packing | None = None) -> None:
        """Begin.

        Args:
            resources: What the study asks for.
            gpus: How many GPUs the cluster has; None if trials run one at a time in this process.
            packing: What is known already.
        """
        self.resources, self.gpus, self.packing = resources, gpus, packing or Packing()
        self._last = 1.0

    @property
    def automatic(self) -> bool:
        """Whether shares follow from measurements, for which the driver has to say what a trial will compute."""
        return self.resources.gpu == "auto" and self.gpus is not None

    def give(self, trial: Sharing) -> float:
        """Return the share for a trial that is handed out now; 0 on the CPU."""
        asked = self.resources.gpu
        if self.gpus is None:
            return 1.0 if asked else 0.0
        if not trial.grown and asked != "auto":
            return asked
        if trial.grown:
            self._last = trial.gpu
        elif trial.missing:  # one that needs nothing goes where a process is already
            self._last = self.packing.fraction(_groups(trial)) or 1.0
        return self._last

    def must_wait(self, trial: Sharing, running: Collection[Sharing]) -> bool:
        """Whether a running trial measures what this one has to know, and no GPU is free to measure beside it."""
        if not self.automatic or trial.grown or self.gpus is None:
            return False
        groups = _groups(trial)
        if self.packing.fraction(groups) is not None:
            return False
        wanted = set(groups.values())
        measuring = any(other.gpu >= 1.0 and wanted & set(_groups(other).values()) for other in running)
        return measuring and sum(other.gpu for other in running) + 1.0 > self.gpus

    def larger(self, trial: Sharing) -> float | None:
        """Return the share for another attempt if the trial runs out of memory; None if there is to be none."""
        if self.resources.on_oom != "grow" or self.gpus is None or trial.grown or not trial.gpu:
            return None
        return larger_fraction(trial.gpu)

    def learn(self, trial: Sharing, measured: dict[str, Any]) -> bool:
        """Take over what a trial has measured and return whether there was news in it."""
        return self.packing.learn(memory_groups(TrialConfig.model_validate(trial.config), measured["peaks"]), measured)


def _groups(trial: Sharing) -> dict[str, str]:
    return memory_groups(TrialConfig.model_validate(trial.config), trial.missing)
