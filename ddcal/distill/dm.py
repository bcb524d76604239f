"""Distribution matching (DM): the synthetic images of a class are to have the mean embedding of its real ones.

Zhao, Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023). MDT masks the synthetic images before
augmentation (method.md, MDT).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddcal.compiling import compiled_call
from ddcal.config import DistillConfig
from ddcal.data import Dataset
from ddcal.data.augment import augment, move_augmentations
from ddcal.distill.learned import LearnedImages, RealBatches
from ddcal.distill.mdt import masked
from ddcal.divergence import Looks
from ddcal.moving import move_together
from ddcal.networks.norm import differentiated_once
from ddcal.seeding import generator


def mean_difference(synthetic: Tensor, real: Tensor) -> Tensor:
    """Return the squared difference of two mean embeddings, summed over features (method.md, DM).

    Args:
        synthetic: Embeddings (n, F).
        real: Embeddings (m, F).

    Returns:
        A scalar; differentiable in both.
    """
    return (synthetic.mean(0) - real.mean(0)).square().sum()


class DistributionMatching(LearnedImages):
    """DM (``backbone: dm``): one image update an iteration, on a fresh network that is never trained."""

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device) -> None:
        super().__init__(dataset, config, seed, device, config.dm.init)
        self.real = RealBatches(dataset, config.dm.real_batch, device)

    def step(self) -> float:
        """Run one iteration and return the mean loss a class.

        Raises:
            DivergedError: if the loss or an updated image is not finite or has exploded.
        """
        streams = {name: generator(self.seed, "distill", name, self.iteration) for name in ("real", "augment")}
        self.mask.begin(self.iteration, self.shape)
        network = self.fresh_network().requires_grad_(False)
        differentiated_once(network)
        embed = compiled_call(network.features) if self.compiled else network.features
        gradient = torch.empty_like(self.stored)
        losses = []
        classes = range(self.dataset.num_classes)
        chosen = move_together(self.real.choose(streams["real"]), self.device)
        augmentations = move_augmentations(self.drawn_for_classes(streams["augment"]), self.device)
        masks = self.mask.draw([(self.per_class, *self.shape[1:]) for _ in classes], "matching")
        for label, same in zip(classes, augmentations, strict=True):
            part = self.stored_part(label)
            leaf = self.stored[part].detach().requires_grad_()
            with torch.no_grad():
                drawn = augment(self.real.images[chosen[label]], same)
                # Small classes have batches of many sizes, each of which would be compiled for.
                real = embed(drawn) if len(drawn) == self.real.size else network.features(drawn)
            images, place = self.decoded(leaf), self.class_part(label)
            images = masked(images, masks[label]) if masks else self.mask.apply(images, place, "matching")
            synthetic = embed(augment(images, same))
            difference = mean_difference(synthetic, real)
            (gradient[part],) = torch.autograd.grad(difference, leaf)
            losses.append(difference.detach())
        loss = torch.stack(losses).sum()
        settings, key, looks, seen = self.config.dm, "distill.dm.image_lr", Looks(self.device), list[float]()
        usual = float(self.dataset.num_classes * real.shape[1])
        looks.at(loss, seen.append)
        with self.as_before_if_diverged():
            self.descend(gradient, settings.image_lr, settings.image_momentum, loss, key, usual=usual, looks=looks)
            looks.now()
        self.iteration += 1
        return seen[0] / self.dataset.num_classes
