"""The train stage: the networks, and their logits on everything that calibration and evaluation will ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.config import NetworkConfig, TrainConfig, TrialConfig
from ddcal.config.backbones.formation import formation_values
from ddcal.config.backbones.halving import half
from ddcal.config.training import LOSS_SECTIONS
from ddcal.pipeline.costs import Amount, Kind, image_values, image_words, network_words
from ddcal.pipeline.stages.base import Stage

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape

POINTS = 4
"""Fidelity points of the stage, at equal shares of the epochs."""


class TrainStage(Stage):
    """Networks trained on the distilled set (DDNNs), or on all real images (FDNNs)."""

    name = "train"
    span = (0.5, 0.9)
    builds_on = ("experts", "distill", "labels")
    reads = ("seed", "data.", "network.", "distill.", "labels.", "train.")
    step = "epoch of a network"
    points_compared = "all but the last"
    shared_files = {"networks.safetensors": "networks"}  # noqa: RUF012 - never changed

    def version(self, config: TrialConfig) -> int:
        """Return the version of training."""
        return 1

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return ``train`` without the sections of other losses."""
        return recipe(config.train)

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an epoch of a network depends on."""
        train, images = config.train, image_words(config)
        what = f"{config.data.name} {images}, {network_words(train.network)}, augment {train.augment}"
        if train.loss != "cross_entropy":
            what += f", {train.loss}"
        return self._kind(what, image_values(config) | epoch_values(train))

    def amount(self, config: TrialConfig) -> Amount:
        """Return the networks, their epochs and the points at which they are scored."""
        epochs = config.train.epochs or 1
        return Amount(config.train.networks, epochs, min(POINTS, epochs))

    def size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the networks and of their logits."""
        from ddcal.pipeline.footprint import (
            MANIFEST_BYTES,
            TENSOR_HEADER_BYTES,
            label_bytes,
            parameter_bytes,
            train_images,
        )

        networks = config.train.networks
        weights, parts = parameter_bytes(config.train.network.over(NetworkConfig()), shape)
        trained, real = sum(train_images(config, shape)), shape.val + shape.test
        logits = (trained + real) * 4 * networks * shape.classes + trained * label_bytes(config, shape) + 8 * real
        return networks * (weights + parts * TENSOR_HEADER_BYTES) + logits + 8 * TENSOR_HEADER_BYTES + MANIFEST_BYTES

    def checkpoint_size(self, config: TrialConfig, shape: DatasetShape) -> int:
        """Return the bytes of the networks and their momentum."""
        from ddcal.pipeline.footprint import MANIFEST_BYTES, momentum_bytes

        return 2 * config.train.networks * momentum_bytes(config.train.network, shape) + 2 * MANIFEST_BYTES

    def memory(self, config: TrialConfig) -> dict[str, Any]:
        """Return the recipe, and how many images there are."""
        return {self.name: self.settings(config), "distill": trained_set(config)}

    def what_to_halve(self, config: TrialConfig) -> list[str]:
        """Return the batch, the width and the number of networks."""
        batch = half("train.batch_size", config.train.batch_size)
        return [*batch, *super().what_to_halve(config), *half("train.networks", config.train.networks)]


TRAIN = TrainStage()


def recipe(train: TrainConfig) -> dict[str, Any]:
    """Return a resolved recipe without settings that have no effect."""
    values = train.model_dump(mode="json")
    for section in LOSS_SECTIONS:
        if section != train.loss:
            values.pop(section, None)
    if train.loss == "kl":
        values["kl"] = train.kl.model_dump(mode="json")
    if train.loss == "focal" and train.focal.sample_dependent:
        del values["focal"]["gamma"]
    return values


def epoch_values(train: TrainConfig) -> dict[str, Any]:
    """Return what of a resolved recipe changes the time of an epoch."""
    values = {"network": train.network.model_dump()}
    return values | train.model_dump(include={"batch_size", "augment", "loss", "holdout"})


def trained_set(config: TrialConfig) -> dict[str, Any]:
    """Return what of a trial's distilled set counts for the memory of what is computed on it."""
    return {"ipc": config.distill.ipc, "full": not config.distill.spec.distills} | formation_values(config.distill)
