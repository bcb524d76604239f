"""A sweep of masked temperature scaling over one trial's networks: ratios, draws and bounds in one pass."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ddcal.calibration import SweepFit, sweep_masks
from ddcal.config import TrialConfig
from ddcal.pipeline.compute.masked import masked_images
from ddcal.pipeline.compute.train import TRAIN, logits_of
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.place import DatasetCache
from ddcal.pipeline.trial import TrialRunner
from ddcal.store.base import Store


@dataclass(frozen=True)
class SweepRow:
    """One fit of a sweep.

    Attributes:
        network: Which of the trial's networks, from 0.
        fit: Its ratio, bounds, temperatures and ``val/…`` and ``test/…`` metrics.
    """

    network: int
    fit: SweepFit


def sweep_trial(
    config: TrialConfig,
    store: Store,
    environment: Environment | None = None,
    *,
    ratios: Sequence[float],
    bounds: Sequence[tuple[float, float]] = ((1.0, 20.0),),
    draws: int = 1,
    keep: bool = True,
    datasets: DatasetCache | None = None,
) -> list[SweepRow]:
    """Return `sweep_masks` of every network of a trial, scored on ``val`` and ``test``.

    What the trial needs up to its train stage is computed where the store has it not. Its calibration is not looked at
    but for the unit of the mask; trials with ``calibrate.method: mts`` and these ratios share the masked logits.

    Args:
        config: The trial.
        store: Where stages and masked logits are looked up and published.
        environment: Device, threads and precision, as for `TrialRunner`.
        ratios: Of masks, each in [0, 1].
        bounds: Pairs (low, high) of temperatures.
        draws: Mask draws a ratio.
        keep: Whether masked logits of any size go into the store.
        datasets: Shared between the trials of one process.

    Raises:
        DataError, DivergedError, StoreError: as `TrialRunner`.
        ValueError: as `sweep_masks`.
    """
    runner = TrialRunner(config, store, environment, datasets=datasets)
    try:
        while TRAIN.name not in runner.entries:
            runner.advance()
    finally:
        runner.close()
    runner.environment.apply()
    masked = masked_images(runner.place, None if keep else 0)
    logits = logits_of(runner.place)
    known: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}

    def of_ratio(ratio: float) -> tuple[torch.Tensor, torch.Tensor]:
        if ratio not in known:
            known[ratio] = masked.logits(ratio, draws)
        return known[ratio]

    def of_network(ratio: float, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        of_networks, labels = of_ratio(ratio)
        return of_networks[index], labels

    rows = []
    for index in range(runner.config.train.networks):
        found = sweep_masks(
            functools.partial(of_network, index=index),
            ratios,
            bounds=bounds,
            scored={
                split: (logits[f"{split}_logits"][index], logits[f"{split}_labels"])
                for split in ("val", "test")
                if len(logits[f"{split}_labels"])
            },
            bins=runner.config.evaluate.bins,
        )
        rows += [SweepRow(index, fit) for fit in found]
    return rows
