"""Training of DDNNs: several networks from independent initialisations on one (distilled) set.

The networks advance epoch by epoch together, so that a metric over all of them exists at any fraction of the work.
Small ones can also take every step together, as one network of grouped convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ddcal.compiling import call_network, compile_network
from ddcal.config import NetworkConfig, TrainConfig
from ddcal.config.augmentations import operations_of
from ddcal.config.training import soft_problem
from ddcal.data.augment import Augmentation, augment, draw_augmentation, draw_crop_flip, move_augmentations
from ddcal.divergence import loss_problem
from ddcal.errors import DivergedError
from ddcal.moving import move_together
from ddcal.networks import Network, build_network, predict_logits
from ddcal.networks.norm import differentiated_once
from ddcal.networks.sgd import SGD
from ddcal.networks.side_by_side import goes_side_by_side, logits_of_each, stack_parameters
from ddcal.precision import Precision, state_determinism, state_precision
from ddcal.seeding import generator
from ddcal.soft_labels import targets
from ddcal.training.losses import make_loss, usual_loss
from ddcal.training.mixup import Mixing, draw_mixing
from ddcal.training.schedules import rate_factor, restarts

AT_ONCE = 8
"""Networks that take a step together at most: more bring no more, and all of their maps are in memory."""


@dataclass(frozen=True)
class _Draws:
    """What an epoch of a network draws, of each batch.

    Attributes:
        order: Which image comes when, int64 (M,).
        mixings: Of mixup; empty for other losses.
        augmentations: One after the other.
    """

    order: Tensor
    mixings: list[Mixing]
    augmentations: list[tuple[Augmentation, ...]]


class DDNNTraining:
    """``config.networks`` networks trained by SGD on the same images (method.md, Evaluation training).

    SGD with momentum and weight decay; for the rate see `ddcal.training.schedules`. With ``augment: dsa``, or some of
    its operations, one is drawn a batch, with parameters of its own for every image; with ``crop_flip`` each is
    shifted, and mirrored or not. Mixup mixes a batch before it is augmented. Initialisation, order, mixing and
    augmentation of network i derive from (seed, i), so adding networks does not change the first ones: not by a bit
    where each is trained for itself, and not by more than rounding where they go ``side_by_side``. There a network's
    own bits depend on how many are beside it, and on nothing of what these are.

    Attributes:
        networks: Their weights are always those after the last step.
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
        side_by_side: bool = False,
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
            side_by_side: Whether up to `AT_ONCE` networks take each step together; without effect where they are
                compiled, which makes large operations of small ones by itself.

        Raises:
            ValueError: if the loss cannot take soft labels, or networks that are to go side by side cannot.
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
        self.networks: list[Network] = [
            build_network(
                network_config, images.shape[1], images.shape[2], num_classes, generator(seed, stream, "network", index)
            ).to(self.device)
            for index in range(config.networks)
        ]
        for network in self.networks:
            differentiated_once(network)
            if compiled:
                compile_network(network)
        most = AT_ONCE if side_by_side and not compiled else 1
        if most > 1 and not goes_side_by_side(self.networks[0]):
            raise ValueError(f"copies of {network_config.name} with norm {network_config.norm} do not go side by side")
        indices = range(config.networks)
        self.runs = [indices[first : first + most] for first in indices[::most]]
        self.optimizers = [SGD(self._learned(run), config.momentum, config.weight_decay) for run in self.runs]

    def step(self) -> float:
        """Train every network for one epoch and return their mean loss.

        Raises:
            DivergedError: if the loss of a batch is not finite or has exploded (`ddcal.divergence`), naming the first.
        """
        schedule = self.config.schedule or "step"
        rate = self.rate * rate_factor(schedule, self.epoch, self.epochs)
        if restarts(schedule, self.epoch, self.epochs):
            for optimizer in self.optimizers:
                optimizer.velocity = []
        means = [self._epoch(run, optimizer, rate) for run, optimizer in zip(self.runs, self.optimizers, strict=True)]
        self.epoch += 1
        return sum(mean for of_run in means for mean in of_run) / len(self.networks)

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
                [(one if len(run) == 1 else one[place]).detach().cpu().clone() for one in optimizer.velocity]
                for run, optimizer in zip(self.runs, self.optimizers, strict=True)
                for place in range(len(run))
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch = state["epoch"]
        for network, weights in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(weights)
        for run, optimizer in zip(self.runs, self.optimizers, strict=True):
            of_each = zip(*(state["momentum"][index] for index in run), strict=True)
            buffers = [one[0].clone() if len(run) == 1 else torch.stack(one) for one in of_each]
            optimizer.velocity = [buffer.to(self.device) for buffer in buffers]

    def _diverged(self, index: int, where: str) -> DivergedError:
        hint = f": lower train.lr ({self.rate:g})" if self.stream == "train" else ""  # a probe's rate is fixed
        return DivergedError(f"{self.stream}: network {index + 1} diverged {where}{hint}")

    def _learned(self, run: range) -> list[Tensor]:
        """Return what is learned of the networks of a run: the parameters of one, or those of several stacked."""
        if len(run) > 1:
            return stack_parameters([self.networks[index] for index in run])
        return [parameter for parameter in self.networks[run[0]].parameters() if parameter.requires_grad]

    def _epoch(self, run: range, optimizer: SGD, rate: float) -> list[float]:
        """Train the networks of a run for one epoch and return the mean loss of each."""
        for index in run:
            if not self.networks[index].training:  # to ask takes less than to say so to every module
                self.networks[index].train()
        drawn = self._moved([self._drawn(index) for index in run])
        batches = torch.stack([one.order for one in drawn]).split(self.config.batch_size or 1, dim=1)
        total, losses = torch.zeros(len(run), device=self.device), list[Tensor]()
        for batch, chosen in enumerate(batches):
            labels, images = self.labels[chosen], self._prepared(self.images[chosen], drawn, batch)
            logits = self._logits(run, images, optimizer.parameters, batches[0].shape[1])
            each = [
                one.mixings[batch].loss(self.loss, said, right) if one.mixings else self.loss(said, right)
                for one, said, right in zip(drawn, logits, labels, strict=True)
            ]
            optimizer.step(torch.autograd.grad(each, optimizer.parameters, allow_unused=True), rate)
            losses.append(torch.stack([loss.detach() for loss in each]))
            total += losses[-1] * chosen.shape[1]
            if self.device.type == "cpu":
                self._check(run, losses[-1].tolist(), len(losses), len(batches))
        *seen, means = torch.stack([*losses, total / len(self.images)]).tolist()  # a GPU is looked at once an epoch
        for batch, values in enumerate(seen, 1):
            self._check(run, values, batch, len(batches))
        return list(means)

    def _logits(
        self, run: range, images: Tensor | list[Tensor], learned: Sequence[Tensor], whole: int
    ) -> Sequence[Tensor]:
        """Return what each network of a run says of its own images, (N, C, S, S) each; ``whole`` is a batch."""
        network = self.networks[run[0]]
        if len(run) == 1:
            return [call_network(network, images[0], whole)]
        together = images if isinstance(images, Tensor) else torch.stack(images)
        return logits_of_each(network, together, learned).unbind()

    def _prepared(self, images: Tensor, drawn: list[_Draws], batch: int) -> Tensor | list[Tensor]:
        """Return the images of a batch (G, N, C, S, S), mixed and augmented for each network by itself."""
        if not drawn[0].mixings and not drawn[0].augmentations[batch]:
            return images
        prepared = list(images)
        for place, one in enumerate(drawn):
            if one.mixings:
                prepared[place] = one.mixings[batch].images(prepared[place])
            for augmentation in one.augmentations[batch]:
                prepared[place] = augment(prepared[place], augmentation)
        return prepared

    def _drawn(self, index: int) -> _Draws:
        """Draw an epoch of a network, on the CPU."""
        order_stream = generator(self.seed, self.stream, f"order-{index}", self.epoch)
        augment_stream = generator(self.seed, self.stream, f"augment-{index}", self.epoch)
        mixup_stream = generator(self.seed, self.stream, f"mixup-{index}", self.epoch)
        order = torch.randperm(len(self.images), generator=order_stream)
        sizes = [len(one) for one in order.split(self.config.batch_size or 1)]
        alpha, mixed = self.config.mixup.alpha, self.config.loss == "mixup"
        mixings = [draw_mixing(size, alpha, mixup_stream) for size in sizes] if mixed else []
        return _Draws(order, mixings, [self._augmentations(size, augment_stream) for size in sizes])

    def _moved(self, drawn: list[_Draws]) -> list[_Draws]:
        """Return what was drawn where the networks are: whole numbers in one buffer, parameters in another."""
        whole = [tensor for one in drawn for tensor in (one.order, *(mixing.partners for mixing in one.mixings))]
        numbers = [augmentation for one in drawn for of_batch in one.augmentations for augmentation in of_batch]
        indices, moved = iter(move_together(whole, self.device)), iter(move_augmentations(numbers, self.device))
        return [
            _Draws(
                next(indices),
                [replace(mixing, partners=next(indices)) for mixing in one.mixings],
                [tuple(next(moved) for _ in of_batch) for of_batch in one.augmentations],
            )
            for one in drawn
        ]

    def _check(self, run: range, losses: Sequence[float], batch: int, batches: int) -> None:
        for index, loss in zip(run, losses, strict=True):
            if problem := loss_problem("loss", loss, self.usual_loss):
                where = f"in epoch {self.epoch + 1} of {self.epochs} at batch {batch} of {batches} ({problem})"
                raise self._diverged(index, where)

    def _augmentations(self, count: int, stream: torch.Generator) -> tuple[Augmentation, ...]:
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
