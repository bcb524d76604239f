"""Computing the folds stage: every distilled image is predicted by a network that was trained without it.

Its networks are trained as the train stage's, one a fold. ``ts_cv`` fits its temperature on their logits, and
``mts_distilled`` takes from them how accurate a network is on distilled images that it has not seen.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddcal.calibration import accuracy
from ddcal.config import TrialConfig
from ddcal.config.calibrations import folds_within
from ddcal.config.datasets import dataset_spec
from ddcal.config.trial import folds_of, held_out_per_class
from ddcal.data import Dataset
from ddcal.distill import SyntheticSet
from ddcal.errors import BadInput
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.labels import labelled_set
from ddcal.pipeline.compute.train import quiet_training, training_images, training_rate
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import BATCHES, SCORED_IMAGES, images_like_train
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.folds import FOLDS
from ddcal.seeding import derive_seed, generator
from ddcal.training import DDNNTraining, split_holdout

logger = logging.getLogger(__name__)

FOLD_LOGITS = "folds.safetensors"


def begin(place: TrialPlace) -> FoldsWork:
    """Return the stage before its first fold.

    Raises:
        BadInput: if a class has a single image.
    """
    synthetic = labelled_set(place)
    assert synthetic is not None, "folds are of distilled images"
    return FoldsWork(place.config, place.dataset, synthetic, place.environment.device, place.environment.compile)


def fold_logits_of(place: TrialPlace) -> dict[str, Tensor] | None:
    """Return the tensors of the finished stage (``logits`` (M, K), ``labels`` (M,) or (M, K)); None without it."""
    entry = place.entries.get(FOLDS.name)
    return None if entry is None else load_file(entry.folder / FOLD_LOGITS)


def split_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Return the fold of every image: of each class as many in one fold as in another, or one more.

    Args:
        labels: int64 (M,).
        folds: How many, at most the number of images of the smallest class.
        seed: The trial's seed.

    Returns:
        int64 (M,) in 0..folds-1.
    """
    found = torch.empty_like(labels)
    for label in torch.unique(labels).tolist():
        indices = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(indices), generator=generator(seed, "folds", "split", label))
        found[indices[order]] = torch.arange(len(indices)) % folds
    return found


class FoldsWork:
    """The folds stage: a network a fold, an epoch a step, and its logits on the images that it was not trained on.

    Attributes:
        curve: Empty: folds have no fidelity points.
        folds: How many there are.
    """

    waited = 0.0

    def __init__(
        self, config: TrialConfig, dataset: Dataset, synthetic: SyntheticSet, device: str, compiled: bool = False
    ) -> None:
        """Begin with the first fold.

        Raises:
            BadInput: if a class has a single image.
        """
        self.config, self.dataset, self.device, self.compiled = config, dataset, device, compiled
        self.images, self.labels, _, _ = training_images(config, dataset, synthetic)
        held = held_out_per_class(synthetic.images_per_class, config.train.holdout)
        classes = synthetic.classes[split_holdout(synthetic.classes, held, config.seed)[0]]  # of these images
        per_class = int(torch.unique(classes, return_counts=True)[1].min())
        if per_class < 2:
            raise BadInput(
                f"calibrate.method is {config.calibrate.method!r} but there is {per_class} distilled image a class to "
                "train on: cross-validation needs at least 2"
            )
        self.folds = folds_within(config.calibrate.folds, per_class)
        rate = training_rate(config, synthetic)
        self.recipe = config.train.model_copy(update={"lr": rate, "networks": 1})
        self.fold_of = split_folds(classes, self.folds, config.seed)
        self.logits = torch.zeros(len(self.labels), dataset.num_classes)
        self.curve: list[dict[str, float]] = []
        self._fold = 0
        self._training: DDNNTraining | None = None

    @property
    def fraction(self) -> float:
        """The share of the networks' epochs that is done."""
        epochs = self.recipe.epochs or 1
        done = self._training.epoch if self._training is not None else 0
        return (self._fold * epochs + done) / (self.folds * epochs)

    def step(self) -> None:
        """Train the network of one fold for one epoch; after its last it predicts the fold.

        Raises:
            DivergedError: if a loss or a logit is not finite.
        """
        training = self._training or self._begin()
        self._training = training
        training.step()
        if training.epoch == training.epochs:
            held = torch.nonzero(self.fold_of == self._fold).flatten()
            self.logits[held] = training.predict(0, self.images[held].to(self.device)).cpu()
            self._fold, self._training = self._fold + 1, None

    def state(self) -> dict[str, Any]:
        """Return the logits so far and the unfinished network."""
        training = None if self._training is None else self._training.state()
        return {"fold": self._fold, "logits": self.logits.clone(), "training": training}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._fold, self.logits, self._training = state["fold"], state["logits"].clone(), None
        if state["training"] is not None:
            self._training = self._begin()
            self._training.restore(state["training"])

    def write(self, folder: Path) -> None:
        """Write the logits (M, K) of every image by the network that has not seen it, the labels and the folds."""
        tensors = {"logits": self.logits, "labels": self.labels.cpu(), "folds": self.fold_of}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FOLD_LOGITS)
        right = accuracy(self.logits, self.labels)
        logger.info("folds: %d networks, cross-validated accuracy %.4f on distilled images", self.folds, right)

    def meta(self) -> dict[str, Any]:
        """Return the cross-validated accuracy as a metric."""
        return {"facts": {"folds/accuracy": accuracy(self.logits, self.labels)}}

    def close(self) -> None:
        """Do nothing."""

    def _begin(self) -> DDNNTraining:
        kept = torch.nonzero(self.fold_of != self._fold).flatten()
        return DDNNTraining(
            self.images[kept],
            self.labels[kept],
            self.recipe,
            num_classes=self.dataset.num_classes,
            flip=dataset_spec(self.dataset.name).flips,
            seed=derive_seed(self.config.seed, "folds", "fold", self._fold),  # every fold a start of its own
            device=self.device,
            stream="folds",
            precision=None,
            compiled=self.compiled,
        )


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of an epoch of a fold, and of its logits."""
    batch, folds = config.train.batch_size, folds_of(config)
    assert batch, "the config must be resolved"
    images, labels, total = images_like_train(config, dataset)
    kept = total - total // folds
    shown = min(kept, BATCHES * batch)
    training = quiet_training(config, dataset, images[:shown], labels[:shown], device, compiled)
    batches = math.ceil(kept / batch) / math.ceil(shown / batch)
    step = batches * measuring.seconds_of(training.step, device)
    held = images[:SCORED_IMAGES].to(device)
    once = measuring.seconds_of(lambda: training.predict(0, held).cpu(), device) / len(held) * total / folds
    return Cost(step, once=once)
