"""Where a trial computes: all that the work of its stages needs, from its config to the entries before a stage."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ddcal.config import DataConfig, TrialConfig
from ddcal.data import DataError, Dataset, dataset_fingerprint, load_dataset
from ddcal.data.sources import locate_source
from ddcal.pipeline.environment import Environment
from ddcal.store.base import Entry, Store
from ddcal.store.leases import Leases

REMEMBERED_BYTES = 64 * 2**20
"""The most that is remembered of a dataset: answers of 140 experts to 12,000 images of 10 classes."""


class DatasetCache:
    """Keeps the dataset that was loaded last, so that consecutive trials on the same data decode it once.

    What was computed of it may be remembered with it, as long as it is loaded.
    """

    def __init__(self, derived: Path | None = None) -> None:
        """Begin with none.

        Args:
            derived: The folder for what is derived from the data's files in place of ``.ddcal`` beside them.
        """
        self._derived = derived
        self._key: str | None = None
        self._dataset: Dataset | None = None
        self._remembered: dict[Hashable, Tensor] = {}

    def get(self, config: DataConfig, fingerprint: str | None = None) -> Dataset:
        """Return the dataset of ``config``.

        Args:
            config: Which data, and where.
            fingerprint: What its files must have had as they were loaded; they are loaded anew if what is kept is of
                others. None takes what is kept, whatever has become of the files.

        Raises:
            DataError: as `load_dataset`, or if the files have another fingerprint by now.
        """
        key = config.model_dump_json()
        kept = self._dataset if key == self._key else None
        if kept is None or fingerprint not in (None, kept.fingerprint):
            self._dataset = kept = None  # two would need twice the memory
            self._remembered.clear()
            kept = load_dataset(config, self._derived)
            self._dataset, self._key = kept, key
        if fingerprint not in (None, kept.fingerprint):
            raise DataError(
                f"{locate_source(config).place}: the data changed: it has the fingerprint {kept.fingerprint[:16]}…, "
                f"the trial began with {str(fingerprint)[:16]}…: put back what was there, or begin the trial again"
            )
        return kept

    def remembered(self, name: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute`` returns, or has returned before for the dataset that is loaded.

        Args:
            name: What it is, with all that it depends on beside the dataset.
            compute: Called where it is not remembered: it was never asked for, or longer ago than `REMEMBERED_BYTES`.
        """
        found = self._remembered.pop(name, None)
        self._remembered[name] = found = compute() if found is None else found
        while len(self._remembered) > 1 and sum(one.nbytes for one in self._remembered.values()) > REMEMBERED_BYTES:
            del self._remembered[next(iter(self._remembered))]
        return found

    def fingerprint(self, config: DataConfig) -> str:
        """Return the fingerprint of ``config``'s files, which are not loaded."""
        return dataset_fingerprint(config, self._derived)


@dataclass(frozen=True)
class TrialPlace:
    """One trial as its stages see it.

    Attributes:
        config: The resolved trial.
        keys: Stage → key.
        fingerprint: Of the real data.
        environment: Device, threads and precision.
        store: Where what trials share within a stage (experts, masked logits) is looked up and published.
        leases: Tell what other processes compute.
        datasets: Shared between the trials of one process.
        gpu: The share of a GPU that this process may use, noted with what it computes.
        entries: Stage → entry of the stages that are finished; the runner fills it.
    """

    config: TrialConfig
    keys: Mapping[str, str]
    fingerprint: str
    environment: Environment
    store: Store
    leases: Leases
    datasets: DatasetCache = field(default_factory=DatasetCache)
    gpu: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def dataset(self) -> Dataset:
        """The real data, loaded at first use.

        Raises:
            DataError: if it cannot be loaded, or has changed since the trial's keys were made.
        """
        return self.datasets.get(self.config.data, self.fingerprint)
