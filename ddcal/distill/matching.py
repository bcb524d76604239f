"""Dataset condensation by gradient matching: DC, and DSA which adds differentiable siamese augmentation.

Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021); Zhao, Bilen, "Dataset Condensation with
Differentiable Siamese Augmentation" (ICML 2021). MDT masks the synthetic images before augmentation (method.md, MDT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddcal.config import DistillConfig
from ddcal.data import Dataset
from ddcal.data.augment import Augmentation, augment, draw_augmentation, move_augmentations
from ddcal.distill.learned import LearnedImages, RealBatches
from ddcal.distill.limits import diverged
from ddcal.distill.mdt import masked
from ddcal.divergence import Looks, loss_problem, usual_cross_entropy
from ddcal.moving import move_together
from ddcal.networks import Network, fix_statistics
from ddcal.networks.norm import once_only
from ddcal.networks.side_by_side import first_width, goes_side_by_side, logits_side_by_side
from ddcal.seeding import generator

EPSILON = 1e-6

STATISTICS_IMAGES = 16
"""Real images a class that fix a batch norm's statistics."""


SMALL = 2**19
"""Classes go side by side where a first block's maps of one hold so many numbers at most; more are slower so."""

AT_ONCE = 2**22
"""Numbers in the first block's maps of all classes that are side by side: what they take of memory."""


def matching_distance(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return the distance of two lists of weight gradients: 1 − cosine per output row, summed (method.md, DC / DSA).

    Args:
        synthetic: One gradient a parameter; a gradient of shape (O, …) has O output rows.
        real: As many gradients of the same shapes. Gradients of one dimension (biases, norm affine) count zero.

    Returns:
        A scalar; differentiable in ``synthetic``.
    """
    return _distances([one[None] for one in synthetic], [one[None] for one in real])[0]


def _distances(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return `matching_distance` of each of G copies, (G,); gradients are (G, O, …)."""
    total = synthetic[0].new_zeros(len(synthetic[0]))
    for ours, theirs in zip(synthetic, real, strict=True):
        if ours.ndim < 3:
            continue
        a, b = ours.flatten(2), theirs.flatten(2)
        total = total + (1.0 - (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2) + EPSILON)).sum(1)
    return total


@dataclass(frozen=True)
class _Update:
    """What an image update draws: of each class, where the images are to be.

    Attributes:
        real: Which real images are matched, int64.
        statistics: Which fix the statistics of batch norms, int64; empty without such norms.
        augmentations: Of real and synthetic images alike; empty for DC.
    """

    real: list[Tensor]
    statistics: list[Tensor]
    augmentations: list[Augmentation]


@dataclass(frozen=True)
class _Epochs:
    """What the network's training between two updates draws.

    Attributes:
        batches: Which images of the set each step takes, int64.
        augmentations: Of each step; empty for DC.
    """

    batches: list[Tensor]
    augmentations: list[Augmentation]


class GradientMatching(LearnedImages):
    """DC (``backbone: dc``), one `step` an iteration, resumable between iterations.

    A network with batch norm has its statistics fixed from one real batch, neither augmented nor masked, before each
    matching, since the batches that are matched hold one class alone; while it is trained it uses those of its batches.
    """

    siamese = False

    def __init__(self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device) -> None:
        matching = config.matching
        assert matching.outer and matching.inner and matching.init, "the config must be resolved"
        super().__init__(dataset, config, seed, device, matching.init)
        self.outer, self.inner = matching.outer, matching.inner
        self.real = RealBatches(dataset, matching.real_batch, device)

    def iteration_seconds(self, seconds_of: Callable[[Callable[[], object]], float], long: float) -> float:
        """Return how long an iteration takes: ``outer`` image updates with ``inner`` epochs between any two of them.

        Where that takes long, shorter iterations are timed: of one update, of two updates with one epoch, and with
        several.
        """
        outer, inner = self.outer, self.inner
        try:
            self.outer = 1
            update = seconds_of(self.step)
            if outer == 1:
                return update
            self.outer, self.inner = 2, 1
            two = seconds_of(self.step)
            epoch = max(two - 2 * update, 0.01 * update)
            if outer * update + (outer - 1) * inner * epoch < long:
                self.outer, self.inner = outer, inner
                return seconds_of(self.step)
            several = min(inner, max(2, round(2 * update / epoch)))
            if several > 1:
                self.inner = several
                epoch = max(0.0, (seconds_of(self.step) - two) / (several - 1))
            return outer * update + (outer - 1) * inner * epoch
        finally:
            self.outer, self.inner = outer, inner

    def step(self) -> float:
        """Run one iteration on a fresh network and return the mean matching loss a class and image update.

        Raises:
            DivergedError: if a loss or an updated image is not finite or has exploded.
        """
        iteration = self.iteration
        self.mask.begin(iteration, self.shape)
        network = self.fresh_network()
        network.train()
        updates, epochs = self._drawn()
        looks, seen = Looks(self.device), list[float]()
        with self.as_before_if_diverged():
            for update in range(self.outer):
                self._update_images(network, updates[update], looks, seen)
                if update < self.outer - 1:
                    self._train_network(network, epochs[update], looks)
            looks.now()
        self.iteration += 1
        return sum(seen) / (self.outer * self.dataset.num_classes)

    def _drawn(self) -> tuple[list[_Update], list[_Epochs]]:
        """Draw the numbers of an iteration, but for masks, and move them together: of each update, and in between."""
        names = ("real", "augment", "inner-augment", "order", "statistics")
        streams = {name: generator(self.seed, "distill", name, self.iteration) for name in names}
        batch, gaps, classes = self.config.matching.inner_batch, self.outer - 1, self.dataset.num_classes
        fixed = STATISTICS_IMAGES if self.network_config.norm == "batch" else 0
        real = [self.real.choose(streams["real"]) for _ in range(self.outer)]
        statistics = [self.real.choose(streams["statistics"], fixed) for _ in range(self.outer)] if fixed else []
        orders = [torch.randperm(len(self.labels), generator=streams["order"]) for _ in range(gaps * self.inner)]
        batches = [chosen for order in orders for chosen in order.split(batch)]
        indices = iter(move_together([*chain(*real, *statistics), *batches], self.device))
        drawn = list[Augmentation]()
        if self.siamese:
            drawn = [one for _ in range(self.outer) for one in self.drawn_for_classes(streams["augment"])]
            drawn += [self._inner_augmentation(len(chosen), streams["inner-augment"]) for chosen in batches]
        augmentations = iter(move_augmentations(drawn, self.device))
        of_real = [list(islice(indices, classes)) for _ in range(self.outer)]
        of_norms = [list(islice(indices, classes if fixed else 0)) for _ in range(self.outer)]
        of_classes = [list(islice(augmentations, classes)) for _ in range(self.outer)]
        steps = len(batches) // gaps if gaps else 0
        between = [_Epochs(list(islice(indices, steps)), list(islice(augmentations, steps))) for _ in range(gaps)]
        return [_Update(*one) for one in zip(of_real, of_norms, of_classes, strict=True)], between

    def _update_images(self, network: Network, drawn: _Update, looks: Looks, seen: list[float]) -> None:
        """One SGD step on the images; the losses of all classes are summed, and appended to ``seen``."""
        if drawn.statistics:  # fixed until the network is trained
            fix_statistics(network, self.real.images[torch.cat(drawn.statistics)])
        classes = range(self.dataset.num_classes)
        gradient = torch.empty_like(self.stored)
        losses = []
        masks = self.mask.draw([(self.per_class, *self.shape[1:]) for _ in classes], "matching")
        for run in self._runs(network, classes, [self.per_class for _ in classes]):
            part = slice(self.stored_part(run[0]).start, self.stored_part(run[-1]).stop)
            leaf = self.stored[part].detach().requires_grad_()
            synthetic = [
                masked(images, masks[label]) if masks else self.mask.apply(images, self.class_part(label), "matching")
                for label, images in zip(run, self.decoded(leaf).split(self.per_class), strict=True)
            ]
            if self.siamese:
                synthetic = [
                    augment(one, drawn.augmentations[label]) for label, one in zip(run, synthetic, strict=True)
                ]
            targets = [
                self._real_gradients(network, drawn, some)
                for some in self._runs(network, run, [len(drawn.real[label]) for label in classes])
            ]
            ours = _weight_gradients(network, torch.stack(synthetic), run, differentiable=True)
            distances = _distances(ours, [torch.cat(of_weight) for of_weight in zip(*targets, strict=True)])
            (gradient[part],) = torch.autograd.grad(distances.sum(), leaf)
            losses.append(distances.detach())
        loss = torch.cat(losses).sum()
        looks.at(loss, seen.append)
        settings = self.config.matching
        usual = float(self.dataset.num_classes * sum(len(weight) for weight in _weights(network)))
        rate, key = settings.image_lr, "distill.matching.image_lr"
        also = f", or lower distill.matching.network_lr ({settings.network_lr:g})" if self.outer > 1 else ""
        self.descend(gradient, rate, settings.image_momentum, loss, key, usual=usual, also=also, looks=looks)

    def _real_gradients(self, network: Network, drawn: _Update, run: range) -> list[Tensor]:
        """Return the gradients of the real images of each class of a run, as `_weight_gradients`."""
        real = [self.real.images[drawn.real[label]] for label in run]
        if self.siamese:
            real = [augment(images, drawn.augmentations[label]) for label, images in zip(run, real, strict=True)]
        with once_only(network):
            return _weight_gradients(network, torch.stack(real), run, differentiable=False)

    def _runs(self, network: Network, classes: range, sizes: Sequence[int]) -> list[range]:
        """Cut classes into runs that go side by side: of as many images each (``sizes``, of every label), and small."""
        together = goes_side_by_side(network)
        numbers = first_width(network) * self.dataset.image_size**2 if together else 0  # of one image
        runs = list[range]()
        for label in classes:
            maps = sizes[label] * numbers
            before = runs[-1] if runs else range(0)
            alike = together and bool(before) and sizes[label] == sizes[before[0]]
            if alike and maps <= SMALL and (len(before) + 1) * maps <= AT_ONCE:
                runs[-1] = range(before[0], label + 1)
            else:
                runs.append(range(label, label + 1))
        return runs

    def _train_network(self, network: nn.Module, drawn: _Epochs, looks: Looks) -> None:
        """``inner`` epochs of plain SGD over the whole synthetic set."""
        network.train()
        parameters: list[Tensor] = list(network.parameters())
        batches, rate = drawn.batches, self.config.matching.network_lr
        worst = torch.zeros((), device=self.device)
        # A GPU gets all masks at once; the CPU needs no room for them.
        at_once = self.device.type != "cpu"
        masks = self.mask.draw([(len(b), *self.shape[1:]) for b in batches], "inner") if at_once else None
        decoded = self.images  # once, as they do not change meanwhile
        for step, chosen in enumerate(batches):
            images = decoded[chosen]
            images = masked(images, masks[step]) if masks else self.mask.apply(images, chosen, "inner")
            if self.siamese:
                images = augment(images, drawn.augmentations[step])
            with once_only(network):
                loss = cross_entropy(network(images), self.device_labels[chosen])
            gradients = torch.autograd.grad(loss, parameters)
            worst = torch.maximum(worst, loss.detach())  # a NaN stays
            with torch.no_grad():
                torch._foreach_sub_(parameters, gradients, alpha=rate)
        usual = usual_cross_entropy(self.dataset.num_classes)

        def check(value: float) -> None:
            if problem := loss_problem("loss of the network's training on the set", value, usual):
                raise diverged(self, problem, f"lower distill.matching.network_lr ({rate:g})")

        looks.at(worst, check)

    def _inner_augmentation(self, count: int, stream: torch.Generator) -> Augmentation:
        """Return the augmentation of a batch that trains the network."""
        return draw_augmentation(count, self.dataset.image_size, stream, siamese=False, flip=self.flip)


def _weights(network: nn.Module) -> list[Tensor]:
    """Return the parameters that are matched: those with output rows."""
    return [parameter for parameter in network.parameters() if parameter.ndim > 1]


def _weight_gradients(network: Network, images: Tensor, labels: range, *, differentiable: bool) -> list[Tensor]:
    """Return the gradients of the mean cross-entropy of each class in the network's weights, (G, O, …) each.

    Args:
        network: Whose weights.
        images: (G, N, C, S, S): N images of each class.
        labels: The G classes.
        differentiable: Whether the gradients are to be differentiated.
    """
    weights, one = _weights(network), len(labels) == 1
    if one:
        logits = network(images[0])
    else:
        weights = [weight.detach().expand(len(labels), *weight.shape).clone().requires_grad_() for weight in weights]
        logits = logits_side_by_side(network, images, weights).flatten(0, 1)
    targets = torch.arange(labels.start, labels.stop, device=images.device).repeat_interleave(images.shape[1])
    loss = cross_entropy(logits, targets, reduction="sum") / images.shape[1]
    gradients = torch.autograd.grad(loss, weights, create_graph=differentiable)
    return [gradient[None] for gradient in gradients] if one else list(gradients)


class SiameseMatching(GradientMatching):
    """DSA (``backbone: dsa``): one augmentation a matching, the same for synthetic and real images."""

    siamese = True
