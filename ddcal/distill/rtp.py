"""Addressable memories (RTP): images as combinations of a few shared bases, learned through the whole training.

Deng, Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks" (NeurIPS
2022); method.md, RTP. MDT masks the decoded images of every unrolled step before augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy, interpolate
from torch.nn.init import xavier_uniform_

from ddcal import precision
from ddcal.config import DistillConfig, NetworkConfig
from ddcal.config.augmentations import operations_of
from ddcal.config.backbones.rtp import decoded_per_class
from ddcal.config.datasets import dataset_spec
from ddcal.data import Dataset
from ddcal.data.augment import augment, draw_augmentation, move_augmentations
from ddcal.distill.distiller import Distiller
from ddcal.distill.experts import skeleton
from ddcal.distill.formation import enlarging_weights
from ddcal.distill.learned import RealBatches
from ddcal.distill.limits import clipped, diverged, limited, what_limits
from ddcal.distill.mdt import SyntheticMask
from ddcal.distill.real import random_subset
from ddcal.distill.unroll import Tensors, method_of, unroll_gradient
from ddcal.divergence import Looks, largest_of, largest_problem, loss_problem, usual_cross_entropy
from ddcal.errors import DivergedError
from ddcal.moving import move_together
from ddcal.networks import build_network
from ddcal.seeding import generator


def decode(bases: Tensor, coefficients: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """Return images (n, C, S, S) = Σ coefficient · base, the bases enlarged bilinearly (method.md, RTP).

    Args:
        bases: (R, C, s, s).
        coefficients: (n, R).
        size: S, in pixels.
        weights: `enlarging_weights`, to enlarge by two matrix products, whose backward gives the same bits every time
            on a GPU; None takes `torch.nn.functional.interpolate`. The two differ by rounding.
    """
    if weights is None:
        enlarged = interpolate(bases, size=(size, size), mode="bilinear", align_corners=False)
    else:
        enlarged = weights @ bases @ weights.T
    return torch.einsum("nr,rchw->nchw", coefficients, enlarged)


class AddressableMemories(Distiller):
    """RTP (``backbone: rtp``): one update of bases and coefficients an iteration, through an unrolled training.

    They begin as Xavier's uniform matrices (Glorot, Bengio, AISTATS 2010): of bases (R, C·s²), a row each, elements lie
    within ±√(6 / (R + C·s²)), of coefficients (K·n, R) within ±√(6 / (K·n + R)).

    Without bases (``bases: 0``) the images themselves are learned, ipc a class, from a random real subset or, with
    ``init: noise``, from Xavier's uniform matrix (K·ipc, C·S²). One augmentation an iteration, drawn from those of
    ``augment``, is that of every unrolled step and of the real images.

    Attributes:
        memories: What is learned: [bases (R, C, s, s), coefficients (K·n, R)], or [images (K·ipc, C, S, S)].
        images: The decoded images, (K·n, C, S, S), ordered by class.
    """

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device) -> None:
        settings = config.rtp
        assert settings.bases is not None and config.iterations, "the config must be resolved"
        self.dataset, self.config, self.settings, self.seed, self.device = dataset, config, settings, seed, device
        self.iterations, self.iteration = config.iterations, 0
        self.size = dataset.image_size
        self.flip = dataset_spec(dataset.name).flips
        self.real = RealBatches(dataset, settings.real_batch, device)
        self.mask = SyntheticMask(config.mask, seed, device)
        self.weights: Tensor | None = None
        if settings.bases:
            shape = (dataset.channels, self.size, settings.bases, settings.downsample)
            self.per_class = decoded_per_class(config.ipc, dataset.num_classes, *shape)
            side = self.size // settings.downsample
            bases = torch.empty(settings.bases, dataset.channels, side, side)
            coefficients = torch.empty(dataset.num_classes * self.per_class, settings.bases)
            draws = generator(seed, "distill", "init")
            # A base is a row of a matrix (R, C·s²), not the kernel of a convolution, whose fans are larger.
            xavier_uniform_(bases.flatten(1), generator=draws)
            xavier_uniform_(coefficients, generator=draws)
            self.memories = [bases.to(device), coefficients.to(device)]
            if precision.adds_in_any_order(torch.device(device)):
                self.weights = enlarging_weights(self.size, side).float().to(device)
        else:
            self.per_class = config.ipc
            images = random_subset(dataset, config.ipc, seed)[0]
            if settings.init == "noise":
                images = torch.empty_like(images)
                xavier_uniform_(images.flatten(1), generator=generator(seed, "distill", "init"))
            self.memories = [images.to(device)]
        self.velocity = [torch.zeros_like(memory) for memory in self.memories]
        self.labels = torch.arange(dataset.num_classes).repeat_interleave(self.per_class)
        self.device_labels = self.labels.to(device)
        self.network = skeleton(dataset, config, generator(seed, "distill", "skeleton")).to(device)
        self.names = [name for name, _ in self.network.named_parameters()]
        taken = min(settings.batch_per_class, self.per_class) * dataset.num_classes * settings.steps
        self.method = method_of(settings.gradient, self.network, (dataset.channels, self.size, self.size), taken)

    @property
    def images(self) -> Tensor:  # type: ignore[override]  # decoded anew
        """The decoded images."""
        return self._decoded(self.memories, None)

    def step(self) -> float:
        """Run one iteration and return its loss: the cross-entropy on real images after the unrolled training.

        Raises:
            DivergedError: if the loss or a memory is not finite or has exploded.
        """
        settings, iteration = self.settings, self.iteration
        self.mask.begin(iteration, (len(self.labels), self.dataset.channels, self.size, self.size))
        same = self._augmentation()
        chosen = self._chosen()
        self.mask.draw_steps([(len(one), self.dataset.channels, self.size, self.size) for one in chosen])
        labels = self.device_labels
        real = self.real.choose(generator(self.seed, "distill", "real", iteration))
        counts = torch.tensor([len(index) for index in real])
        real_labels = torch.repeat_interleave(torch.arange(len(real)), counts)
        taken, real_labels = move_together([torch.cat(real), real_labels], self.device)
        real_images = same(self.real.images[taken])

        def loss_of(parameters: Tensors, images: Tensor, targets: Tensor) -> Tensor:
            weights = dict(zip(self.names, parameters, strict=True))
            return cross_entropy(functional_call(self.network, weights, (images,)), targets)

        def step_loss(step: int, parameters: Tensors, inputs: Tensors) -> Tensor:
            images = self.mask.apply_at(step, self._decoded(inputs, chosen[step]), chosen[step])
            return loss_of(parameters, same(images), labels[chosen[step]])

        def outer_loss(parameters: Tensors, inputs: Tensors) -> Tensor:
            loss = loss_of(parameters, real_images, real_labels)
            if settings.regularisation and settings.bases:
                loss = loss + settings.regularisation * inputs[1].norm()
            return loss

        found = unroll_gradient(
            step_loss,
            outer_loss,
            self._fresh_weights(),
            self.memories,
            torch.full((), settings.inner_lr, device=self.device),
            settings.steps,
            momentum=settings.inner_momentum,
            method=self.method,
            segment=max(1, round(math.sqrt(settings.steps))),
        )
        looks, seen = Looks(self.device), list[float]()
        looks.at(found.loss, seen.append)
        memories, velocity = ([value.clone() for value in values] for values in (self.memories, self.velocity))
        try:
            self._descend(list(found.inputs), found.loss, looks)
            looks.now()
        except DivergedError:  # a GPU sees it late
            self.memories, self.velocity = memories, velocity
            raise
        self.iteration += 1
        return seen[0]

    def state(self) -> dict[str, Tensor]:
        """Return copies of what the next iteration starts from."""
        tensors = {f"memory-{i}": memory.cpu().clone() for i, memory in enumerate(self.memories)}
        tensors |= {f"velocity-{i}": velocity.cpu().clone() for i, velocity in enumerate(self.velocity)}
        return tensors | {"iteration": torch.tensor(self.iteration)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.memories = [state[f"memory-{i}"].to(self.device).clone() for i in range(len(self.memories))]
        self.velocity = [state[f"velocity-{i}"].to(self.device).clone() for i in range(len(self.memories))]
        self.iteration = int(state["iteration"])

    def _decoded(self, memories: Tensors, index: Tensor | None) -> Tensor:
        """Return the decoded images ``index``, or all."""
        if not self.settings.bases:
            return memories[0] if index is None else memories[0][index]
        bases, coefficients = memories
        return decode(bases, coefficients if index is None else coefficients[index], self.size, self.weights)

    def _augmentation(self) -> Callable[[Tensor], Tensor]:
        """Return the iteration's augmentation, the same for every batch."""
        operations = operations_of(self.settings.augment)
        if not operations:
            return lambda images: images
        stream = generator(self.seed, "distill", "augment", self.iteration)
        drawn = draw_augmentation(1, self.size, stream, siamese=True, flip=self.flip, operations=operations)
        (same,) = move_augmentations([drawn], self.device)
        return lambda images: augment(images, same)

    def _chosen(self) -> list[Tensor]:
        """Return which decoded images every inner step trains on: ``batch_per_class`` of each class."""
        size = min(self.settings.batch_per_class, self.per_class)
        stream = generator(self.seed, "distill", "order", self.iteration)
        first = torch.arange(self.dataset.num_classes)[:, None] * self.per_class
        chosen = [
            (torch.rand(self.dataset.num_classes, self.per_class, generator=stream).argsort(1)[:, :size] + first)
            for _ in range(self.settings.steps)
        ]
        return move_together([one.flatten() for one in chosen], self.device)

    def _fresh_weights(self) -> list[Tensor]:
        draws = generator(self.seed, "distill", "network", self.iteration)
        config = self.config.network.over(NetworkConfig())
        shape = (self.dataset.channels, self.size, self.dataset.num_classes)
        return move_together([p.detach() for p in build_network(config, *shape, draws).parameters()], self.device)

    def _descend(self, gradients: list[Tensor], loss: Tensor, looks: Looks) -> None:
        """Take one SGD step on the memories, the gradient's norm over all of them clipped."""
        settings, limit = self.settings, self.config.update_limit
        advice = (
            f"lower distill.rtp.inner_lr ({settings.inner_lr:g}) or distill.rtp.lr ({settings.lr:g})"
            f"{what_limits(self.config)}"
        )
        name = f"loss on real images after {settings.steps} steps"
        seen: list[float] = []

        def check_loss(value: float) -> None:
            seen.append(value)
            if problem := loss_problem(name, value, usual_cross_entropy(self.dataset.num_classes)):
                raise diverged(self, problem, advice)

        def check_largest(largest: float) -> None:
            if problem := largest_problem("an element of what is learned", largest):
                finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
                cause = "" if finite else "its gradient is not finite, "
                raise diverged(self, f"{name} {seen[0]:g}, {cause}{problem}", advice)

        looks.at(loss, check_loss)
        for memory, velocity, gradient in zip(
            self.memories, self.velocity, clipped(gradients, settings.clip), strict=True
        ):
            velocity.mul_(settings.momentum).add_(gradient)
            if limit is None:
                memory.sub_(velocity, alpha=settings.lr)
            else:
                memory.sub_(limited(settings.lr * velocity, limit))
        looks.at(largest_of(self.memories), check_largest)
