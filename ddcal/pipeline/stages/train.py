"""The train stage: the networks, and their logits on everything that calibration and evaluation will ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddcal.config import NetworkConfig, TrainConfig, TrialConfig
from ddcal.config.backbones.formation import formation_values
from ddcal.config.backbones.halving import half
from ddcal.config.networks import padded_side
from ddcal.config.training import LOSS_SECTIONS
from ddcal.config.trial import held_out_per_class
from ddcal.pipeline.costs import Amount, Kind, image_values, image_words, network_words
from ddcal.pipeline.stages.base import Stage

if TYPE_CHECKING:
    from ddcal.data.shapes import DatasetShape

POINTS = 4
"""Fidelity points of the stage, at equal shares of the epochs."""

SMALL = 2**18
"""Networks are trained side by side where a first block's maps of one batch hold so many numbers at most.

CPU seconds one after the other, by those side by side, of 3 ConvNets: 1.9 for 10 digits of 8 px at width 32 (20,480
numbers), 1.5 for 50 and 1.3 for 100; beyond the limit 1.2 for 256 digits and 1.15 for 10 images of 32 px, 1.05 for 100
digits at width 128 (819,200), and 0.96 for 100 images of 32 px.
"""


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
        """Return the version of training: 2 where networks are trained side by side, which changes last digits."""
        return 2 if side_by_side(config) else 1

    def settings(self, config: TrialConfig) -> dict[str, Any]:
        """Return ``train`` without the sections of other losses."""
        return recipe(config.train)

    def kind(self, config: TrialConfig) -> Kind:
        """Return what an epoch of a network depends on."""
        train, images = config.train, image_words(config)
        what = f"{config.data.name} {images}, {network_words(train.network)}, augment {train.augment}"
        values = image_values(config) | epoch_values(train)
        if side_by_side(config):
            what += f", {train.networks} side by side"
            values["networks"] = train.networks
        if train.loss != "cross_entropy":
            what += f", {train.loss}"
        return self._kind(what, values)

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


def side_by_side(config: TrialConfig) -> bool:
    """Return whether the networks of a *resolved* trial take every step together.

    That is a matter of the recipe, and the same on every machine: ConvNets whose norm is of one map alone, and small
    batches (`SMALL`). It is not done where a name does not tell how large images are, or how many are imported.
    """
    train, spec, data = config.train, config.distill.spec, config.data.spec
    network = train.network.over(NetworkConfig())
    size = config.data.resolution or data.side
    alone = train.networks == 1 or network.name != "convnet" or network.norm == "batch"
    if alone or not data.side or not data.channels or spec.imports or not network.width or not train.batch_size:
        return False
    batch, classes = train.batch_size, len(data.class_names)
    if spec.distills and classes:
        try:
            each = spec.images_per_class(config.distill, classes, data.channels, size)
        except ValueError:  # there can be no such set, which is said where it is made
            return False
        batch = min(batch, classes * (each - held_out_per_class(each, train.holdout)))
    return batch * network.width * padded_side(data.channels, size) ** 2 <= SMALL


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
