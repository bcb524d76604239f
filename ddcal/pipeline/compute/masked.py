"""Logits of masked images, read or predicted: entries of the store that every calibration of the same networks shares.

What a network answers to masked images depends on the ratio, the unit, the draws and the seed, and not on the bounds or
the solver of the fit: trials that differ in these, and sweeps, predict once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddcal.calibration.masked import masked_logits
from ddcal.config import TrialConfig
from ddcal.pipeline.compute.labels import labelled_set
from ddcal.pipeline.compute.train import networks_of, training_images
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.masked import KEPT_BYTES, MASKED, masked_key
from ddcal.pipeline.stages.train import TRAIN
from ddcal.store.base import Store

logger = logging.getLogger(__name__)

MASKED_LOGITS = "masked.safetensors"


@dataclass
class MaskedImages:
    """The masked images of one train stage, as its networks see them.

    Attributes:
        config: The trial, resolved.
        store: Where logits are looked up and published.
        train_key: The train stage's key.
        load: Returns the networks, the images and their labels; called where logits are missing, at most once.
        keep: The largest size that is published, in bytes; None publishes all.
        used: Keys of the entries that were read or published.
    """

    config: TrialConfig
    store: Store
    train_key: str
    load: Callable[[], tuple[Sequence[torch.nn.Module], Tensor, Tensor]]
    keep: int | None = KEPT_BYTES
    used: list[str] = field(default_factory=list)
    _loaded: tuple[Sequence[torch.nn.Module], Tensor, Tensor] | None = None

    def logits(self, ratio: float, draws: int) -> tuple[Tensor, Tensor]:
        """Return what the networks answer to images masked at a ratio.

        Args:
            ratio: In [0, 1]; what masks nothing is not kept, as the train stage has it.
            draws: How many masks are drawn; 1 counts at ratio 0.

        Returns:
            float32 (networks, draws, M, K), and the labels, int64 (M,) or float32 (M, K), on the CPU.

        Raises:
            StoreError: if the store cannot be read or written.
        """
        key = masked_key(self.train_key, self.config, ratio, draws)
        entry = self.store.get(MASKED, key) if ratio > 0.0 else None
        if entry is not None:
            self.used.append(key)
            tensors = load_file(entry.folder / MASKED_LOGITS)
            return tensors["logits"], tensors["labels"]
        began = time.perf_counter()
        networks, images, labels = self._load()
        unit = self.config.calibrate.mask.unit
        each = [masked_logits(net, images, labels, ratio, draws, self.config.seed, unit) for net in networks]
        stacked, used = torch.stack([logits for logits, _ in each]).cpu(), each[0][1].cpu()
        small = self.keep is None or stacked.numel() * stacked.element_size() <= self.keep
        if ratio > 0.0 and small:
            self._publish(key, stacked, used, time.perf_counter() - began, ratio)
        return stacked, used

    def _load(self) -> tuple[Sequence[torch.nn.Module], Tensor, Tensor]:
        if self._loaded is None:
            self._loaded = self.load()
        return self._loaded

    def _publish(self, key: str, logits: Tensor, labels: Tensor, seconds: float, ratio: float) -> None:
        def write(folder: Path) -> dict[str, Any]:
            save_file({"logits": logits.contiguous(), "labels": labels.contiguous()}, folder / MASKED_LOGITS)
            config = self.config.model_dump(mode="json")
            return {"curve": [], "seconds": seconds, "config": config, "masked_ratio": ratio}

        self.store.publish(MASKED, key, write)
        self.used.append(key)


def masked_images(place: TrialPlace, keep: int | None = KEPT_BYTES) -> MaskedImages:
    """Return the masked images of a trial's finished train stage: the training images (DDNN) or ``val`` (FDNN).

    Args:
        place: The trial.
        keep: The largest size of their logits that goes into the store, in bytes; None keeps all.
    """

    def load() -> tuple[Sequence[torch.nn.Module], Tensor, Tensor]:
        networks, synthetic, device = networks_of(place), labelled_set(place), place.environment.device
        if synthetic is None:
            images, labels = place.dataset.val.images, place.dataset.val.labels
        else:
            images, labels, _, _ = training_images(place.config, place.dataset, synthetic)
        return networks, images.to(device), labels.to(device)

    return MaskedImages(place.config, place.store, place.keys[TRAIN.name], load, keep)
