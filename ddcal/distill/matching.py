"""Dataset condensation by gradient matching: DC, and DSA which adds differentiable siamese augmentation.

Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021); Zhao, Bilen, "Dataset Condensation with
Differentiable Siamese Augmentation" (ICML 2021). MDT masks the synthetic images before augmentation (PAPER.md, MDT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddcal.config import DistillConfig, NetworkConfig
from ddcal.config.trial import DATASETS_WITHOUT_FLIP
from ddcal.data import Dataset
from ddcal.data.augment import augment, draw_augmentation
from ddcal.distill.mdt import SyntheticMask
from ddcal.distill.real import random_subset
from ddcal.errors import DivergedError
from ddcal.networks import build_network
from ddcal.seeding import generator

EPSILON = 1e-6


def matching_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return the distance of two lists of weight gradients: 1 − cosine per output row, summed (PAPER.md, DC / DSA).

    Args:
        synthetic: One gradient a parameter; a gradient of shape (O, …) has O output rows.
        real: As many gradients of the same shapes. Gradients of one dimension (biases, norm affine) count zero.

    Returns:
        A scalar; differentiable in ``synthetic``.
    """
    total = synthetic[0].new_zeros(())
    for ours, theirs in zip(synthetic, real, strict=True):
        if ours.ndim < 2:
            continue
        a, b = ours.flatten(1), theirs.flatten(1)
        total = total + (1.0 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)).sum()
    return total


class GradientMatching:
    """DC (``backbone: dc``) and DSA (``backbone: dsa``), one `step` an iteration, resumable between iterations.

    Every random number of an iteration derives from (seed, stream, iteration), so `state` holds the images, their
    momentum and the iteration alone, and an interrupted run goes on bit-exactly.
    """

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device) -> None:
        matching = config.matching
        assert matching.outer and matching.inner and config.iterations, "the config must be resolved"
        self.dataset, self.config, self.seed, self.device = dataset, config, seed, device
        self.network_config = config.network.over(NetworkConfig())
        self.siamese = config.backbone == "dsa"
        self.flip = dataset.name not in DATASETS_WITHOUT_FLIP
        self.iterations, self.iteration = config.iterations, 0
        self.outer, self.inner = matching.outer, matching.inner
        self.mask = SyntheticMask(config.mask, seed, device)

        images, self.labels = random_subset(dataset, config.ipc, seed)
        if matching.init == "noise":
            images = torch.randn(images.shape, generator=generator(seed, "distill", "init"))
        self.images = images.to(device)
        self.velocity = torch.zeros_like(self.images)
        self.device_labels = self.labels.to(device)
        self.train_images = dataset.train.images.to(device)
        self.class_indices = [dataset.train.indices_of(label) for label in range(dataset.num_classes)]

    def step(self) -> float:
        """Run one iteration on a fresh network and return the mean matching loss a class and image update.

        Raises:
            DivergedError: if the loss or an updated image is not finite.
        """
        iteration = self.iteration
        streams = {
            name: generator(self.seed, "distill", name, iteration)
            for name in ("real", "augment", "inner-augment", "order")
        }
        self.mask.begin(iteration, tuple(self.images.shape))
        network = build_network(
            self.network_config,
            self.dataset.channels,
            self.dataset.image_size,
            self.dataset.num_classes,
            generator(self.seed, "distill", "network", iteration),
        ).to(self.device)
        network.train()
        loss = 0.0
        for update in range(self.outer):
            loss += self._update_images(network, streams)
            if update < self.outer - 1:
                self._train_network(network, streams)
        self.iteration += 1
        return loss / (self.outer * self.dataset.num_classes)

    def state(self) -> dict[str, Tensor]:
        """Return copies of what the next iteration starts from."""
        return {
            "images": self.images.detach().cpu().clone(),
            "velocity": self.velocity.cpu().clone(),
            "iteration": torch.tensor(self.iteration),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.images = state["images"].to(self.device).clone()
        self.velocity = state["velocity"].to(self.device).clone()
        self.iteration = int(state["iteration"])

    def _update_images(self, network: nn.Module, streams: dict[str, torch.Generator]) -> float:
        """One SGD step on the images; the losses of all classes are summed."""
        weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        gradient = torch.empty_like(self.images)
        losses = []
        for label in range(self.dataset.num_classes):
            part = slice(label * self.config.ipc, (label + 1) * self.config.ipc)
            real = self._real_batch(label, streams["real"])
            leaf = self.images[part].detach().requires_grad_()
            synthetic = self.mask.apply(leaf, part, "matching")
            if self.siamese:
                same = draw_augmentation(
                    1,
                    self.dataset.image_size,
                    streams["augment"],
                    siamese=True,
                    flip=self.flip,
                    device=str(self.device),
                )
                real, synthetic = augment(real, same), augment(synthetic, same)
            real_loss = cross_entropy(network(real), self.device_labels.new_full((len(real),), label))
            target = torch.autograd.grad(real_loss, weights)
            synthetic_loss = cross_entropy(network(synthetic), self.device_labels[part])
            ours = torch.autograd.grad(synthetic_loss, weights, create_graph=True)
            distance = matching_distance(ours, target)
            (gradient[part],) = torch.autograd.grad(distance, leaf)
            losses.append(distance.detach())
        loss = float(torch.stack(losses).sum())
        self.velocity.mul_(self.config.matching.image_momentum).add_(gradient)
        self.images.sub_(self.velocity, alpha=self.config.matching.image_lr)
        if not math.isfinite(loss) or not bool(torch.isfinite(self.images).all()):
            raise DivergedError(
                f"distill: {self.config.backbone} diverged in iteration {self.iteration + 1} of {self.iterations} "
                f"(matching loss {loss:g}): lower distill.matching.image_lr ({self.config.matching.image_lr:g})"
            )
        return loss

    def _real_batch(self, label: int, stream: torch.Generator) -> Tensor:
        indices = self.class_indices[label]
        count = min(self.config.matching.real_batch, len(indices))
        chosen = indices[torch.randperm(len(indices), generator=stream)[:count]]
        return self.train_images[chosen.to(self.device)]

    def _train_network(self, network: nn.Module, streams: dict[str, torch.Generator]) -> None:
        """``inner`` epochs of plain SGD over the whole synthetic set."""
        parameters = list(network.parameters())
        batch = self.config.matching.inner_batch
        for _ in range(self.inner):
            order = torch.randperm(len(self.images), generator=streams["order"]).to(self.device)
            for chosen in order.split(batch):
                images = self.mask.apply(self.images[chosen], chosen, "inner")
                if self.siamese:
                    drawn = draw_augmentation(
                        len(images),
                        self.dataset.image_size,
                        streams["inner-augment"],
                        siamese=False,
                        flip=self.flip,
                        device=str(self.device),
                    )
                    images = augment(images, drawn)
                loss = cross_entropy(network(images), self.device_labels[chosen])
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.sub_(gradient, alpha=self.config.matching.network_lr)
