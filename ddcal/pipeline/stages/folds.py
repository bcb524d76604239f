"""The folds stage: every distilled image is predicted by a network that was trained without it (cross-validation)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.config import TrialConfig
from ddcal.config.trial import folds_of
from ddcal.pipeline.costs import Amount, Kind, image_values, image_words, network_words
from ddcal.pipeline.stages.base import Stage
from ddcal.pipeline.stages.train import epoch_values, recipe, trained_set

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape


class FoldsStage(Stage):
    """A network a fold, trained as those of the train stage, on which it does not depend."""

    name = "folds"
    span = (0.9, 0.9)  # none of a trial's progress, as experts
    builds_on = ("experts", "distill", "labels")
    reads = (*("seed", "data.", "network.", "distill.", "labels.", "train."), "calibrate.method", "calibrate.folds")
    step = "epoch of a network"
    optional = True

    def in_trial(self, config: TrialConfig) -> bool:
        """Return whether the calibration cross-validates."""
        return config.calibrate.spec.cross_validates

    def version(self, config: TrialConfig) -> int:
        """Return the version of cross-validation."""
        return 1

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return how networks are trained, but not how many, as a fold has one."""
        return {"train": recipe(config.train) | {"networks": 1}, "folds": folds_of(config)}

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an epoch of a fold depends on."""
        train, folds = config.train, folds_of(config)
        words = f"{image_words(config)} in {folds} folds"
        what = f"{config.data.name} {words}, {network_words(train.network)}, augment {train.augment}"
        return self._kind(what, image_values(config) | {"folds": folds} | epoch_values(train))

    def amount(self, config: TrialConfig) -> Amount:
        """Return the folds and the epochs of each."""
        return Amount(folds_of(config), config.train.epochs or 1, 0)

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the logits."""
        from ddcal.pipeline.footprint import MANIFEST_BYTES, TENSOR_HEADER_BYTES, label_bytes, train_images

        one = 4 * shape.classes + label_bytes(config, shape) + 8
        return train_images(config, shape)[0] * one + 3 * TENSOR_HEADER_BYTES + MANIFEST_BYTES

    def checkpoint_size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of one network, its momentum and the logits so far."""
        from ddcal.pipeline.footprint import MANIFEST_BYTES, momentum_bytes, train_images

        logits = 4 * train_images(config, shape)[0] * shape.classes
        return 2 * (momentum_bytes(config.train.network, shape) + logits + MANIFEST_BYTES)

    def memory(self, config: TrialConfig) -> dict[str, Any]:
        """Return the recipe, and how many images there are."""
        return {self.name: self.settings(config), "distill": trained_set(config)}


FOLDS = FoldsStage()
