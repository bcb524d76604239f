"""Coresets (``herding``, ``k_center``, ``el2n``): the training images of each class that experts choose.

What float32 does not tell apart counts as equal, and of equal images the first in the order of the training images is
taken. All orders are those of choosing, so that a larger set of a class begins with the smaller one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ddcal.config import DistillConfig
from ddcal.data import Dataset
from ddcal.distill.experts import Experts, expert_network
from ddcal.distill.real import FixedImages
from ddcal.networks import Network, predict_logits

SLACK = 1e-5
"""Numbers that differ by less than this share are equal. The same images have features and losses that differ by up to
4e-7 of them in batches of other sizes, and by 8e-6 with two threads instead of one (96 images of CIFAR-10, an untrained
ConvNet of width 32, measured on a CPU)."""


class Coreset(FixedImages):
    """Base of the coresets: one step, which chooses the images class by class.

    Attributes:
        networks: The experts, as they were after ``coreset.epoch`` epochs.
        images: Before the step the first ``ipc`` images of every class.
    """

    def __init__(
        self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device, experts: Experts
    ) -> None:
        """Choose nothing yet.

        Raises:
            ValueError: if a class has too few training images.
        """
        coreset = config.coreset
        assert coreset.experts and coreset.epoch, "the config must be resolved"
        self.dataset, self.config, self.seed = dataset, config, seed
        for label in range(dataset.num_classes):
            self.check_count(label, len(dataset.train.indices_of(label)))
        self.networks = [
            expert_network(experts, index, coreset.epoch, dataset, config, device) for index in range(coreset.experts)
        ]
        first = [dataset.train.indices_of(label)[: config.ipc] for label in range(dataset.num_classes)]
        self.images = dataset.train.images[torch.cat(first)].clone()
        self.labels = torch.arange(dataset.num_classes).repeat_interleave(config.ipc)

    def step(self) -> float:
        """Choose the images; there is no loss, so 0 is returned."""
        self.images = torch.cat([self.chosen(label) for label in range(self.dataset.num_classes)])
        return super().step()

    def state(self) -> dict[str, Tensor]:
        """Return the images too, so that nothing is chosen twice."""
        return super().state() | {"images": self.images.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        super().restore(state)
        self.images = state["images"].clone()

    def iteration_seconds(self, seconds_of: Callable[[Callable[[], object]], float], long: float) -> float:
        """Return how long the step takes, from one class of it."""
        return seconds_of(lambda: self.chosen(0)) * self.dataset.num_classes

    def check_count(self, label: int, count: int) -> None:
        """Raise a ValueError if so many training images of a class are too few."""
        if count < self.config.ipc:
            raise ValueError(
                f"distill.ipc is {self.config.ipc} but class {label} of {self.dataset.name} has {count} training images"
            )

    @abstractmethod
    def chosen(self, label: int) -> Tensor:
        """Return the ``ipc`` images of a class, (ipc, C, S, S), on the CPU."""


class _Selection(Coreset):
    """Base of the coresets that take images as they are."""

    def chosen(self, label: int) -> Tensor:
        """Return the images of a class that `order` names."""
        indices = self.dataset.train.indices_of(label)
        images = self.dataset.train.images[indices]
        return images[torch.tensor(self.order(images, label))]

    @abstractmethod
    def order(self, images: Tensor, label: int) -> list[int]:
        """Return the positions of ``ipc`` of all images of a class, in the order of choosing."""


class Herding(_Selection):
    """Herding on the features of the experts (Welling, ICML 2009; Rebuffi et al., "iCaRL", CVPR 2017)."""

    def order(self, images: Tensor, label: int) -> list[int]:
        """Return what `herded` chooses."""
        return herded(features(self.networks, images), self.config.ipc)


class KCenter(_Selection):
    """Greedy k-centre on the features of the experts (Sener, Savarese, ICLR 2018)."""

    def order(self, images: Tensor, label: int) -> list[int]:
        """Return what `spread` chooses."""
        return spread(features(self.networks, images), self.config.ipc)


class SmallestErrors(_Selection):
    """Images of the smallest EL2N, or of the largest (Paul, Ganguli, Dziugaite, NeurIPS 2021)."""

    def order(self, images: Tensor, label: int) -> list[int]:
        """Return the images in the order of their mean error."""
        errors = el2n(self.networks, images, label)
        return in_order(-errors if self.config.coreset.hardest else errors, self.config.ipc)


def features(networks: Sequence[Network], images: Tensor) -> Tensor:
    """Return the features before the classifier of images (N, C, S, S) as each network has them, float64 (N, F)."""
    return torch.cat([predict_logits(_Embedding(network), images).double() for network in networks], 1)


def el2n(networks: Sequence[nn.Module], images: Tensor, label: int) -> Tensor:
    """Return the mean over the networks of ‖softmax(logits) − onehot(label)‖₂ of each image, float64 (N,)."""
    errors = []
    for network in networks:
        error = predict_logits(network, images).double().softmax(1)
        error[:, label] -= 1.0
        errors.append(error.norm(dim=1))
    return torch.stack(errors).mean(0)


def herded(points: Tensor, count: int) -> list[int]:
    """Return ``count`` points, each the one with which the mean of those taken is nearest to that of all.

    Args:
        points: Float64 (N, F).
        count: At most N; no point is taken twice.
    """
    off, slack = points - points.mean(0), _slack(points)
    total, taken = torch.zeros_like(points[0]), torch.zeros(len(points), dtype=torch.bool)
    chosen: list[int] = []
    while len(chosen) < count:  # k·‖mean of k − mean of all‖ = ‖sum of the k, less k means of all‖
        chosen.append(first_lowest((total + off).norm(dim=1).masked_fill(taken, torch.inf), slack))
        total = total + off[chosen[-1]]
        taken[chosen[-1]] = True
    return chosen


def spread(points: Tensor, count: int) -> list[int]:
    """Return ``count`` points: the one nearest to the mean of all, then always the one farthest from those taken.

    Args:
        points: Float64 (N, F).
        count: At most N; no point is taken twice.
    """
    slack, taken = _slack(points), torch.zeros(len(points), dtype=torch.bool)
    chosen = [first_lowest((points - points.mean(0)).norm(dim=1), slack)]
    nearest = torch.full((len(points),), torch.inf, dtype=points.dtype)
    while len(chosen) < count:
        nearest = nearest.minimum((points - points[chosen[-1]]).norm(dim=1))
        taken[chosen[-1]] = True
        chosen.append(first_lowest((-nearest).masked_fill(taken, torch.inf), slack))
    return chosen


def in_order(scores: Tensor, count: int) -> list[int]:
    """Return the positions of the ``count`` lowest of scores (N,), the lowest first; of equal ones the first."""
    left, chosen = scores.clone(), list[int]()
    while len(chosen) < count:
        chosen.append(first_lowest(left, SLACK * float(left.min().abs())))
        left[chosen[-1]] = torch.inf
    return chosen


def first_lowest(scores: Tensor, slack: float) -> int:
    """Return the position of the lowest of scores (N,), or of the first that is above it by no more than ``slack``."""
    return int((scores <= scores.min() + slack).nonzero()[0])


def _slack(points: Tensor) -> float:
    """Return by how much distances of points (N, F) may differ and be equal: a share of how long points are."""
    return SLACK * float(points.square().sum(1).mean().sqrt())


class _Embedding(nn.Module):
    """A network without its classifier."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)
