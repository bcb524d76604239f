"""What backbones that learn the images themselves share: the images, their momentum, and batches of real images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor

from ddcal.config import DistillConfig, NetworkConfig
from ddcal.config.backbones.formation import formed_per_class
from ddcal.config.datasets import dataset_spec
from ddcal.data import Dataset
from ddcal.data.augment import Augmentation, draw_augmentation
from ddcal.distill.distiller import Distiller
from ddcal.distill.formation import decode, packed, tile_weights
from ddcal.distill.limits import clipped, diverged, limited, what_limits
from ddcal.distill.mdt import SyntheticMask
from ddcal.distill.real import random_subset
from ddcal.divergence import Looks, largest_of, largest_problem, loss_problem
from ddcal.errors import DivergedError
from ddcal.networks import FreshNetworks, Network
from ddcal.seeding import generator


class LearnedImages(Distiller):
    """A synthetic set that is updated by SGD, ordered by class; the base of DC, DSA, DM and MTT.

    Every random number of an iteration derives from (seed, stream, iteration), so `state` holds the images, their
    momentum and the iteration alone, and an interrupted run goes on bit-exactly.

    Attributes:
        stored: What is learned, (K·ipc, C, S, S). These are the `images`, unless ``distill.formation`` has several in
            each: then `images` are what they decode to, anew each time.
        shape: Of `images`, (M, C, S, S).
        per_class: How many of them each class has.
    """

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device, init: str) -> None:
        """Draw the first images.

        Args:
            dataset: Only ``train`` is read.
            config: Resolved.
            seed: The trial's seed.
            device: Where to compute.
            init: ``real`` (a random real subset) or ``noise`` (standard normal).
        """
        assert config.iterations, "the config must be resolved"
        self.dataset, self.config, self.seed, self.device = dataset, config, seed, device
        self.network_config = config.network.over(NetworkConfig())
        self.flip = dataset_spec(dataset.name).flips
        self.iterations, self.iteration = config.iterations, 0
        self.mask = SyntheticMask(config.mask, seed, device)

        factor, size = config.formation.factor, dataset.image_size
        self.per_class = formed_per_class(config.ipc, factor, size)
        self.tiles = tile_weights(size, factor).to(device) if factor > 1 else None
        images, self.labels = self.first_images()
        self.shape = tuple(images.shape)
        if init == "noise":
            count = config.ipc * dataset.num_classes
            images = torch.randn((count, *self.shape[1:]), generator=generator(seed, "distill", "init"))
        elif factor > 1:
            images = packed(images, factor)
        self.stored = images.to(device)
        self.velocity = torch.zeros_like(self.stored)
        self.device_labels = self.labels.to(device)

    def first_images(self) -> tuple[Tensor, Tensor]:
        """Return the real images that the set begins with, ordered by class, and their labels."""
        return random_subset(self.dataset, self.config.ipc, self.seed, self.config.formation.factor**2)

    @property
    def images(self) -> Tensor:
        """The images of the set, (M, C, S, S); decoded anew where stored ones hold several each."""
        return self.decoded(self.stored)

    @images.setter
    def images(self, images: Tensor) -> None:
        assert self.tiles is None, "what is decoded cannot be set: set `stored`"
        self.stored = images

    def decoded(self, stored: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return the images that stored ones (n, C, S, S) hold, all or those at the indices ``chosen``.

        Differentiable. Masks and augmentations come after it.
        """
        if self.tiles is not None:
            return decode(stored, self.tiles, chosen)
        return stored if chosen is None else stored[chosen]

    def state(self) -> dict[str, Tensor]:
        """Return copies of what the next iteration starts from."""
        return {
            "images": self.stored.detach().cpu().clone(),
            "velocity": self.velocity.cpu().clone(),
            "iteration": torch.tensor(self.iteration),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.stored = state["images"].to(self.device).clone()
        self.velocity = state["velocity"].to(self.device).clone()
        self.iteration = int(state["iteration"])

    def class_part(self, label: int) -> slice:
        """Return where a class lies in the set."""
        return slice(label * self.per_class, (label + 1) * self.per_class)

    def stored_part(self, label: int) -> slice:
        """Return where a class lies in `stored`."""
        return slice(label * self.config.ipc, (label + 1) * self.config.ipc)

    @cached_property
    def _networks(self) -> FreshNetworks:
        shape = (self.dataset.channels, self.dataset.image_size, self.dataset.num_classes)
        return FreshNetworks(self.network_config, *shape, self.device)

    def fresh_network(self) -> Network:
        """Return the iteration's own network, newly initialised in the memory of the one before."""
        return self._networks.draw(generator(self.seed, "distill", "network", self.iteration))

    def drawn_for_classes(self, stream: torch.Generator) -> list[Augmentation]:
        """Return a siamese DSA augmentation for each class, drawn one after the other, on the CPU."""
        size, classes = self.dataset.image_size, range(self.dataset.num_classes)
        return [draw_augmentation(1, size, stream, siamese=True, flip=self.flip) for _ in classes]

    def descend(
        self,
        gradient: Tensor,
        rate: float,
        momentum: float,
        loss: float | Tensor,
        key: str,
        *,
        usual: float = 1.0,
        also: str = "",
        looks: Looks | None = None,
    ) -> None:
        """Take one SGD step on the images, held by ``distill.clip`` and ``distill.update_limit`` where they are set.

        Args:
            gradient: Of the loss, of the shape of `stored`.
            rate: The learning rate.
            momentum: In [0, 1).
            loss: The iteration's loss, for the check; a number, or a scalar tensor.
            key: The setting that is the rate, for the error.
            usual: The loss where nothing has been learned (`ddcal.divergence`).
            also: What else to change where the loss has diverged, for the error.
            looks: Where the loop looks at its numbers: on a GPU errors come with its `Looks.now`, so that `step` has to
                be within `as_before_if_diverged`. None looks here.

        Raises:
            DivergedError: if the loss or an updated image is not finite or has exploded; where it is looked at here,
                the images are not changed by a loss that has.
        """
        advice = f"lower {key} ({rate:g}){what_limits(self.config)}"
        looks = looks or Looks(torch.device("cpu"))
        seen: list[float] = []

        def check_loss(value: float) -> None:
            seen.append(value)
            if problem := loss_problem("matching loss", value, usual):
                raise diverged(self, problem, f"{advice}{also}")

        def check_largest(largest: float) -> None:
            if problem := largest_problem("an image element", largest):
                cause = "" if bool(torch.isfinite(gradient).all()) else "its gradient is not finite, "
                raise diverged(self, f"matching loss {seen[0]:g}, {cause}{problem}", advice)

        if isinstance(loss, Tensor):
            looks.at(loss, check_loss)
        else:
            check_loss(loss)
        (held,) = clipped([gradient], self.config.clip)
        self.velocity.mul_(momentum).add_(held)
        if self.config.update_limit is None:
            self.stored.sub_(self.velocity, alpha=rate)
        else:
            self.stored.sub_(limited(rate * self.velocity, self.config.update_limit))
        looks.at(largest_of([self.stored]), check_largest)

    @contextmanager
    def as_before_if_diverged(self) -> Iterator[None]:
        """Put images and momentum back where an iteration ends with a `DivergedError`, which a GPU sees late."""
        stored, velocity = self.stored.clone(), self.velocity.clone()
        try:
            yield
        except DivergedError:
            self.stored, self.velocity = stored, velocity
            raise


class RealBatches:
    """Random training images of one class at a time, from where distillation computes."""

    def __init__(self, dataset: Dataset, size: int, device: torch.device) -> None:
        self.images = dataset.train.images.to(device)
        self.indices = [dataset.train.indices_of(label) for label in range(dataset.num_classes)]
        self.size, self.device = size, device

    def choose(self, stream: torch.Generator, size: int | None = None) -> list[Tensor]:
        """Return which images `draw` would draw of each class, one after the other: indices, on the CPU."""
        return [self._chosen(label, stream, self.size if size is None else size) for label in range(len(self.indices))]

    def _chosen(self, label: int, stream: torch.Generator, size: int) -> Tensor:
        indices = self.indices[label]
        return indices[torch.randperm(len(indices), generator=stream)[: min(size, len(indices))]]

    def draw(self, label: int, stream: torch.Generator, size: int | None = None) -> Tensor:
        """Return ``size`` images of the class without replacement, or all if it has fewer; (n, C, H, W)."""
        return self.images[self._chosen(label, stream, self.size if size is None else size).to(self.device)]
