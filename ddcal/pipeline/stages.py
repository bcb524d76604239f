"""What each stage of one trial computes, from the entries of the stages before it; `TrialRunner` says when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddcal.config import DataConfig, TrialConfig
from ddcal.config.calibrations import MASK_METHODS
from ddcal.data import Dataset, load_dataset
from ddcal.errors import BadInput
from ddcal.pipeline.diagram import DIAGRAM, draw_diagram
from ddcal.pipeline.environment import Environment
from ddcal.pipeline.keys import expert_keys, stage_keys
from ddcal.pipeline.leases import Leases
from ddcal.pipeline.masked_stage import KEPT_BYTES, MaskedImages
from ddcal.pipeline.store import Entry, Store

if TYPE_CHECKING:
    from ddcal.distill import SyntheticSet
    from ddcal.pipeline.expert_stage import ExpertsWork
    from ddcal.pipeline.work import StageWork

SHORT_STAGES = {"calibrate": "calibration.json", "evaluate": "evaluation.json"}
"""The stages that are computed in one go, and the file of their values."""


class DatasetCache:
    """Keeps the dataset that was loaded last, so that consecutive trials on the same data decode it once."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._dataset: Dataset | None = None

    def get(self, config: DataConfig) -> Dataset:
        """Return the dataset of ``config``."""
        key = config.model_dump_json()
        if self._dataset is None or key != self._key:
            self._dataset = None
            self._dataset, self._key = load_dataset(config), key
        return self._dataset


@dataclass(frozen=True)
class ShortResult:
    """What `Stages.compute` found.

    Attributes:
        values: Metrics and settings that were found; JSON.
        write: Writes further files of the entry into a folder.
        meta: Further fields of the entry's manifest.
    """

    values: dict[str, Any]
    write: Callable[[Path], None]
    meta: dict[str, Any] = field(default_factory=dict)


class Stages:
    """The stages of one trial.

    Attributes:
        config: The resolved trial.
        keys: Stage → key.
        entries: Stage → entry of the stages that are finished; the runner fills it.
    """

    def __init__(
        self,
        config: TrialConfig,
        store: Store,
        environment: Environment,
        fingerprint: str,
        keys: Mapping[str, str],
        leases: Leases,
        datasets: DatasetCache | None = None,
        gpu: float = 0.0,
    ) -> None:
        """Take what the stages need; nothing is loaded yet.

        Args:
            config: The resolved trial.
            store: Where experts and masked logits are looked up and published.
            environment: Device, threads and precision.
            fingerprint: Of the real data.
            keys: Stage → key.
            leases: Tell which experts other processes train.
            datasets: Shared between the trials of one process.
            gpu: The share of a GPU that experts are noted with.
        """
        self.config, self.keys = config, keys
        self.entries: dict[str, Entry] = {}
        self._store, self._environment, self._fingerprint = store, environment, fingerprint
        self._leases, self._gpu = leases, gpu
        self._datasets = datasets or DatasetCache()

    @property
    def dataset(self) -> Dataset:
        """The real data, loaded at first use."""
        return self._datasets.get(self.config.data)

    def begin(self, stage: str) -> StageWork:
        """Return the work of a stage that goes in steps: experts, distill, folds or train.

        Raises:
            BadInput: if a file of images that is to be imported has changed.
        """
        from ddcal.pipeline.work import TrainWork

        if stage == "experts":
            return self._experts()
        if stage == "distill":
            return self._distill()
        if stage == "folds":
            from ddcal.pipeline.folds import FoldsWork

            synthetic = self.synthetic()
            assert synthetic is not None, "folds are of distilled images"
            return FoldsWork(self.config, self.dataset, synthetic, self._environment.device)
        return TrainWork(self.config, self.dataset, self.synthetic(), self._environment.device)

    def compute(self, stage: str) -> ShortResult:
        """Return what a short stage finds: calibrate or evaluate."""
        return self._calibrate() if stage == "calibrate" else self._evaluate()

    def synthetic(self) -> SyntheticSet | None:
        """Return the set of the finished distill stage; None for a trial that trains on all images."""
        from ddcal.distill import SyntheticSet

        return SyntheticSet.load(self.entries["distill"].folder) if "distill" in self.entries else None

    def train_logits(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the finished train stage: ``<split>_logits`` (n, N, K) and ``<split>_labels`` (N,)."""
        from safetensors.torch import load_file

        from ddcal.pipeline.work import LOGITS

        return load_file(self.entries["train"].folder / LOGITS)

    def masked_images(self, keep: int | None = KEPT_BYTES) -> MaskedImages:
        """Return the masked images of the finished train stage: the training images (DDNN) or ``val`` (FDNN).

        Args:
            keep: The largest size of their logits that goes into the store, in bytes; None keeps all.
        """
        return MaskedImages(self.config, self._store, self.keys["train"], self._networks_and_images, keep)

    def _experts(self) -> ExpertsWork:
        from ddcal.pipeline.expert_stage import ExpertsWork

        keys = expert_keys(self.config, self._fingerprint, self._environment)
        place = (self._store, self._leases, self._gpu)
        return ExpertsWork(self.config, self.dataset, self._environment.device, keys, *place)

    def _distill(self) -> StageWork:
        from ddcal.pipeline.work import DistillWork

        experts = None
        if "experts" in self.keys:
            found = self._experts()
            while found.fraction < 1.0:  # looks them up; what was removed meanwhile is trained again
                found.step()
            experts = found.experts()
        work = DistillWork(self.config, self.dataset, self._environment.device, experts)
        if self.config.distill.backbone == "file":
            now = stage_keys(self.config, self._fingerprint, self._environment)["distill"]
            if now != self.keys["distill"]:
                raise BadInput(f"distill.file.images: {self.config.distill.file.images} changed meanwhile")
        return work

    def _calibrate(self) -> ShortResult:
        from safetensors.torch import load_file

        from ddcal.pipeline.finish import calibrate
        from ddcal.pipeline.folds import FOLD_LOGITS

        masked = self.masked_images() if self.config.calibrate.method in MASK_METHODS else None
        folds = load_file(self.entries["folds"].folder / FOLD_LOGITS) if "folds" in self.entries else None
        found = calibrate(self.config, self.train_logits(), masked, folds)
        members = {"members": sorted(set(masked.used))} if masked is not None and masked.used else {}
        return ShortResult(found.values, found.write, members)

    def _evaluate(self) -> ShortResult:
        from ddcal.pipeline.finish import calibrators_of, evaluate

        entry = self.entries["calibrate"]
        calibrators = calibrators_of(entry.meta["values"], entry.folder)
        values = evaluate(self.config, self.train_logits(), calibrators, entry.meta["values"])
        return ShortResult(values, lambda folder: draw_diagram(values, self.config, folder / DIAGRAM))

    def _networks_and_images(self) -> tuple[list[torch.nn.Module], torch.Tensor, torch.Tensor]:
        from safetensors.torch import load_file

        from ddcal.pipeline.finish import load_networks
        from ddcal.pipeline.work import NETWORKS, training_images

        networks = load_networks(load_file(self.entries["train"].folder / NETWORKS), self.config, self.dataset)
        if self.config.distill.backbone == "full":
            images, labels = self.dataset.val.images, self.dataset.val.labels
        else:
            images, labels, _, _ = training_images(self.config, self.dataset, self.synthetic())
        device = self._environment.device
        return [n.to(device) for n in networks], images.to(device), labels.to(device)
