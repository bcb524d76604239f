"""What finished trials have left in the store, as the figures need it: sets, networks, logits, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.analysis.report.cells import Run
from ddcal.config import TrialConfig
from ddcal.pipeline import DatasetCache, Entry, Store, open_store
from ddcal.study.record.study_store import cache_place

if TYPE_CHECKING:
    import torch

    from ddcal.data import Dataset
    from ddcal.distill import SyntheticSet
    from ddcal.networks.base import Network


class Lost(Exception):
    """The store no longer has a stage that a figure needs; the message says which, and of what trial."""


class Artefacts:
    """Reads the stages of trials; stores and the last dataset stay open."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._datasets = DatasetCache()

    def entry(self, run: Run, stage: str) -> Entry:
        """Return a stage of a trial.

        Raises:
            Lost: if the trial does not have it, or the store has it no more.
            ddcal.errors.StoreError: if the store cannot be read.
        """
        key = (run.trial.keys or {}).get(stage)
        entry = None if key is None else self.store_of(run).get(stage, key)
        if entry is None:
            raise Lost(f"{stage} of {run.trial.trial_key} is not in the store: run that trial again")
        return entry

    def store_of(self, run: Run) -> Store:
        """Return the store of a trial's study.

        Raises:
            ddcal.errors.StoreError: if it cannot be opened.
        """
        directory = run.study.directory
        if str(directory) not in self._stores:
            self._stores[str(directory)] = open_store(run.study.store, cache_place(run.study.study))
        return self._stores[str(directory)]

    def config(self, run: Run) -> TrialConfig:
        """Return a trial's resolved config."""
        return run.trial.config

    def dataset(self, run: Run) -> Dataset:
        """Return the real data of a trial.

        Raises:
            Lost: if it is no longer what the trial computed on.
            ddcal.data.DataError: if it cannot be loaded.
        """
        data, fingerprint = run.trial.config.data, run.trial.fingerprint
        dataset = self._datasets.get(data)
        if fingerprint not in (None, dataset.fingerprint):
            raise Lost(f"the data of {run.trial.trial_key} is no longer what it was: put back what was there")
        return dataset

    def synthetic(self, run: Run) -> SyntheticSet:
        """Return a trial's distilled set."""
        from ddcal.distill import SyntheticSet

        return SyntheticSet.load(self.entry(run, "distill").folder)

    def logits(self, run: Run) -> dict[str, torch.Tensor]:
        """Return the train stage's tensors: ``<split>_logits`` (networks, N, K) and ``<split>_labels`` (N,)."""
        from safetensors.torch import load_file

        from ddcal.pipeline.compute.train import LOGITS

        return load_file(self.entry(run, "train").folder / LOGITS)

    def val_images(self, run: Run) -> int:
        """Return how many images ``val`` has, without reading them."""
        from safetensors import safe_open

        from ddcal.pipeline.compute.train import LOGITS

        with safe_open(self.entry(run, "train").folder / LOGITS, framework="numpy") as tensors:
            return int(tensors.get_slice("val_labels").get_shape()[0])

    def network(self, run: Run, index: int = 0) -> Network:
        """Return one of a trial's networks."""
        from safetensors.torch import load_file

        from ddcal.pipeline.compute.train import NETWORKS, load_networks

        weights = load_file(self.entry(run, "train").folder / NETWORKS)
        network: Any = load_networks(weights, self.config(run), self.dataset(run))[index]
        return network

    def evaluation(self, run: Run) -> dict[str, Any]:
        """Return what the evaluation found: ``metrics``, ``temperatures`` and ``reliability``."""
        values: dict[str, Any] = self.entry(run, "evaluate").meta["values"]
        return values
