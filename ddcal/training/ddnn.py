"""Training of DDNNs: several networks from independent initialisations on one (distilled) set, side by side.

The networks advance epoch by epoch together, so that a metric over all of them exists at any fraction of the work.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from ddcal.compiling import call_network, compile_network
from ddcal.config import NetworkConfig, TrainConfig
from ddcal.config.augmentations import operations_of
from ddcal.config.training import soft_problem
from ddcal.data.augment import Augmentation, augment, draw_augmentation, draw_crop_flip, move_augmentations
from ddcal.divergence import loss_problem
from ddcal.errors import DivergedError
from ddcal.moving import move_together
from ddcal.networks import build_network, predict_logits
from ddcal.networks.norm import differentiated_once
from ddcal.precision import Precision, state_determinism, state_precision
from ddcal.seeding import generator
from ddcal.soft_labels import targets
from ddcal.training.losses import make_loss, usual_loss
from ddcal.training.mixup import draw_mixing
from ddcal.training.schedules import rate_factor, restarts


class DDNNTraining:
    """``config.networks`` networks trained by SGD on the same images (method.md, Evaluation training).

    SGD with momentum and weight decay; for the rate see `ddcal.training.schedules`. With ``augment: dsa``, or some of
    its operations, one is drawn a batch, with parameters of its own for every image; with ``crop_flip`` each is
    shifted, and mirrored or not. Mixup mixes a batch before it is augmented. Initialisation, order, mixing and
    augmentation of network i derive from (seed, i), so adding networks does not change the first ones.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        config: TrainConfig,
        *,
        num_classes: int,
        flip: bool,
        seed: int,
        device: torch.device | str = "cpu",
        stream: str = "train",
        precision: Precision | None = "float32",
        compiled: bool = False,
    ) -> None:
        """Prepare the networks at epoch 0.

        Args:
            images: float32 (M, C, S, S) in network-input space.
            labels: int64 (M,), or soft ones, probabilities float32 (M, K); those that are one-hot train to the same
                bits as the classes that they stand for.
            config: A resolved config: nothing but ``network`` is left out; ``lr`` too must be a number.
            num_classes: Outputs of the networks.
            flip: Whether augmentation may mirror images (not for digits).
            seed: The trial's seed.
            device: Where to train.
            stream: What random numbers belong to, and errors name: ``train``, ``folds`` or ``probe``.
            precision: Stated for this process (`ddcal.precision`); None leaves it as it is.
            compiled: Whether the networks are compiled, in a process that `ddcal.compiling` has prepared.

        Raises:
            ValueError: if the loss cannot take soft labels.
        """
        labels = targets(labels)
        if labels.ndim == 2 and (problem := soft_problem(config)):
            raise ValueError(problem)
        if precision is not None:
            state_precision(precision)
        state_determinism(device)
        assert config.epochs and config.augment and config.lr and config.batch_size, "the config must be resolved"
        assert config.weight_decay is not None
        self.rate = config.lr
        self.config, self.seed, self.stream, self.flip = config, seed, stream, flip
        self.device = torch.device(device)
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.epochs, self.epoch = config.epochs, 0
        self.loss = make_loss(config)
        self.usual_loss = usual_loss(config, num_classes)
        network_config = config.network.over(NetworkConfig())
        self.networks: list[nn.Module] = [
            build_network(
                network_config, images.shape[1], images.shape[2], num_classes, generator(seed, stream, "network", index)
            ).to(self.device)
            for index in range(config.networks)
        ]
        for network in self.networks:
            differentiated_once(network)
            if compiled:
                compile_network(network)
        self.optimizers = [
            torch.optim.SGD(
                network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
            )
            for network in self.networks
        ]

    def step(self) -> float:
        """Train every network for one epoch and return their mean loss.

        Raises:
            DivergedError: if the loss of a batch is not finite or has exploded (`ddcal.divergence`), naming the first.
        """
        schedule = self.config.schedule or "step"
        rate = self.rate * rate_factor(schedule, self.epoch, self.epochs)
        if restarts(schedule, self.epoch, self.epochs):
            for optimizer in self.optimizers:
                optimizer.state.clear()
        total = 0.0
        for index, (network, optimizer) in enumerate(zip(self.networks, self.optimizers, strict=True)):
            for group in optimizer.param_groups:
                group["lr"] = rate
            total += self._epoch(index, network, optimizer)
        self.epoch += 1
        return total / len(self.networks)

    def predict(self, index: int, images: Tensor) -> Tensor:
        """Return the logits (N, K) of network ``index`` for float32 images (N, C, S, S), on their device.

        Raises:
            DivergedError: if a logit is not finite: the losses do not show what the last update has done.
        """
        logits = predict_logits(self.networks[index], images)
        if not bool(torch.isfinite(logits).all()):
            raise self._diverged(index, f"after epoch {self.epoch} of {self.epochs} (its logits are not finite)")
        return logits

    def state(self) -> dict[str, Any]:
        """Return networks, momentum and the epoch; `restore` goes on bit-exactly from it."""
        return {
            "epoch": self.epoch,
            "networks": [_copied(network.state_dict()) for network in self.networks],
            "momentum": [
                [optimizer.state[p]["momentum_buffer"].detach().cpu().clone() for p in network.parameters()]
                if optimizer.state
                else []
                for network, optimizer in zip(self.networks, self.optimizers, strict=True)
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch = state["epoch"]
        for network, optimizer, weights, momentum in zip(
            self.networks, self.optimizers, state["networks"], state["momentum"], strict=True
        ):
            network.load_state_dict(weights)
            optimizer.state.clear()
            for parameter, buffer in zip(network.parameters(), momentum, strict=False):
                optimizer.state[parameter]["momentum_buffer"] = buffer.to(self.device).clone()

    def _diverged(self, index: int, where: str) -> DivergedError:
        hint = f": lower train.lr ({self.rate:g})" if self.stream == "train" else ""  # a probe's rate is fixed
        return DivergedError(f"{self.stream}: network {index + 1} diverged {where}{hint}")

    def _epoch(self, index: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        network.train()
        order_stream = generator(self.seed, self.stream, f"order-{index}", self.epoch)
        augment_stream = generator(self.seed, self.stream, f"augment-{index}", self.epoch)
        mixup_stream = generator(self.seed, self.stream, f"mixup-{index}", self.epoch)
        drawn_order = torch.randperm(len(self.images), generator=order_stream)
        sizes = [len(one) for one in drawn_order.split(self.config.batch_size)]
        alpha, mixed = self.config.mixup.alpha, self.config.loss == "mixup"
        drawn_mixings = [draw_mixing(size, alpha, mixup_stream) for size in sizes] if mixed else []
        order, *partners = move_together([drawn_order, *(one.partners for one in drawn_mixings)], self.device)
        placed = [replace(one, partners=there) for one, there in zip(drawn_mixings, partners, strict=True)]
        batches, mixings = order.split(sizes), placed or repeat(None, len(sizes))
        augmentations = self._augmentations(sizes, augment_stream)
        total, losses = torch.zeros((), device=self.device), list[Tensor]()
        for chosen, drawn_for_batch, mixing in zip(batches, augmentations, mixings, strict=True):
            images, labels = self.images[chosen], self.labels[chosen]
            if mixing:
                images = mixing.images(images)
            for drawn in drawn_for_batch:
                images = augment(images, drawn)
            logits = call_network(network, images, len(batches[0]))
            loss = mixing.loss(self.loss, logits, labels) if mixing else self.loss(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(chosen)
            losses.append(loss.detach())
            if self.device.type == "cpu":
                self._check(index, float(losses[-1]), len(losses), len(batches))
        *seen, mean = torch.stack([*losses, total / len(self.images)]).tolist()  # a GPU is looked at once an epoch
        for batch, value in enumerate(seen, 1):
            self._check(index, value, batch, len(batches))
        return float(mean)

    def _check(self, index: int, loss: float, batch: int, batches: int) -> None:
        if problem := loss_problem("loss", loss, self.usual_loss):
            where = f"in epoch {self.epoch + 1} of {self.epochs} at batch {batch} of {batches} ({problem})"
            raise self._diverged(index, where)

    def _augmentations(self, counts: list[int], stream: torch.Generator) -> list[list[Augmentation]]:
        """Return the augmentations of each batch, drawn one after the other and moved together."""
        drawn = [self._drawn(count, stream) for count in counts]
        moved = iter(move_augmentations([one for of_batch in drawn for one in of_batch], self.device))
        return [[next(moved) for _ in of_batch] for of_batch in drawn]

    def _drawn(self, count: int, stream: torch.Generator) -> tuple[Augmentation, ...]:
        size = self.images.shape[2]
        name = self.config.augment or "none"
        if name == "crop_flip":
            return draw_crop_flip(count, size, stream, flip=self.flip)
        operations = operations_of(name)
        if not operations:
            return ()
        return (draw_augmentation(count, size, stream, siamese=False, flip=self.flip, operations=operations),)


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def split_holdout(labels: Tensor, held_per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (kept, held) indices: ``held_per_class`` random images of every class are held out of training.

    Args:
        labels: int64 (M,), the class that each stands for.
        held_per_class: How many of each class; see `ddcal.config.trial.held_out_per_class`.
        seed: The trial's seed.
    """
    kept, held = [], []
    for label in range(int(labels.max()) + 1):
        indices = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(indices), generator=generator(seed, "train", "holdout", label))
        held.append(indices[order[:held_per_class]].sort().values)
        kept.append(indices[order[held_per_class:]].sort().values)
    return torch.cat(kept), torch.cat(held)
