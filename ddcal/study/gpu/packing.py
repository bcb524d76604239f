"""Packing: how many trials share a GPU, from the memory that each kind of stage was measured to need.

The first trial that computes a stage of some kind has a GPU of its own and measures; later ones get the smallest
fraction that holds what they will compute. All of it is plain arithmetic on what the ledger says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ddcal.config import TrialConfig
from ddcal.config.trial import flatten
from ddcal.pipeline.stages import STAGES

FRACTIONS = {1.0: "1", 0.5: "1/2", 0.3333: "1/3", 0.25: "1/4", 0.1666: "1/6", 0.125: "1/8"}
"""What a trial may get, largest first: few, as a process is reused at its own fraction alone; Ray counts in 0.0001."""

MARGIN = 0.15
"""What a process may need above what was measured, as a share of it."""

MIB = 2**20

WITHOUT_MEMORY = {"seed", "iterations", "epochs", "count", "points", "outer", "inner", "draws", "solver", "folds"}
"""Whole numbers and names that change how long a stage computes, and not what it holds at once."""


def memory_groups(config: TrialConfig, stages: Iterable[str]) -> dict[str, str]:
    """Return stage → group: stages of one group need the same memory.

    A group is the settings of the stage without rates, ratios and counts of steps, the data, the images per class and
    the networks, as JSON. ``evaluate`` has none: it works on stored logits.

    Args:
        config: The trial, resolved.
        stages: The stages asked about.
    """
    data = config.data.model_dump(mode="json", include={"name", "root", "resolution"})
    if config.data.spec.side:
        del data["root"]  # where the files lie; the name says what the images are like
    groups = {}
    for stage in stages:
        settings = STAGES[stage].memory(config)
        if settings is None:
            continue
        flat = flatten({"stage": stage, "data": data, **settings})
        kept = {
            name: value
            for name, value in flat.items()
            if value is not None and not isinstance(value, float) and name.rpartition(".")[2] not in WITHOUT_MEMORY
        }
        groups[stage] = json.dumps(kept, sort_keys=True)
    return groups


def fitting_fraction(peak: float, context: float, total: float) -> float:
    """Return the smallest fraction whose share of the memory holds a process.

    Args:
        peak: What torch's allocator was seen to hold.
        context: What a process needs beside it, its CUDA context.
        total: The GPU's memory, in the same unit.
    """
    fits = [fraction for fraction in FRACTIONS if peak * (1.0 + MARGIN) + context <= fraction * total]
    return min(fits, default=1.0)


def larger_fraction(fraction: float) -> float | None:
    """Return the next larger fraction, or None for a whole GPU and more."""
    return min((larger for larger in FRACTIONS if larger > fraction + 1e-6), default=None)


class Packing:
    """What is known of a study's memory; fed with the ledger's ``gpu_measured`` events, old and new."""

    def __init__(self) -> None:
        """Begin knowing nothing."""
        self.total: int | None = None
        self.context: int | None = None
        self._peaks: dict[str, int] = {}

    def learn(self, groups: dict[str, str], measured: dict[str, Any]) -> bool:
        """Take over a measurement and return whether there was news in it.

        Args:
            groups: Stage → group of the measured trial.
            measured: ``total`` and ``context`` (None if it could not be told) in bytes, ``peaks`` by stage.
        """
        before = (self.total, self.context, dict(self._peaks))
        # Of GPUs of several sizes the smallest counts; a process that had not quite left yet makes a context larger.
        self.total = min(measured["total"], self.total or measured["total"])
        if measured["context"] is not None:
            self.context = min(measured["context"], self.context or measured["context"])
        for stage, peak in measured["peaks"].items():
            if stage in groups:
                self._peaks[groups[stage]] = max(peak, self._peaks.get(groups[stage], 0))
        return before != (self.total, self.context, self._peaks)

    def fraction(self, groups: dict[str, str]) -> float | None:
        """Return the fraction for a trial that computes stages of ``groups``; None if one of them is not measured."""
        if self.total is None or any(group not in self._peaks for group in groups.values()):
            return None
        peak = max((self._peaks[group] for group in groups.values()), default=0)
        return fitting_fraction(peak, self.context or 0, self.total)

    def table(self) -> list[dict[str, Any]]:
        """Return a row a group: its settings, MiB at its peak and of a CUDA context, and the fraction it gets."""
        rows = []
        for group, peak in sorted(self._peaks.items()):
            settings = json.loads(group)
            fraction = self.fraction({"": group})
            rows.append(
                {
                    "stage": settings.pop("stage"),
                    "group": settings,
                    "peak_mib": round(peak / MIB),
                    "context_mib": None if self.context is None else round(self.context / MIB),
                    "gpu_mib": round((self.total or 0) / MIB),
                    "fraction": FRACTIONS.get(fraction or 1.0),
                }
            )
        return rows
