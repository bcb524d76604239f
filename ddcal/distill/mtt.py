"""Matching training trajectories (MTT): a student trained on the synthetic images is to end where an expert did.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (CVPR 2022); method.md, MTT. MDT masks the
synthetic images of every student step before augmentation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cosine_similarity, cross_entropy

from ddcal.config import DistillConfig
from ddcal.data import Dataset
from ddcal.data.augment import Augmentation, augment, draw_augmentation, move_augmentations
from ddcal.distill.experts import Experts, load_weights, skeleton, unflatten
from ddcal.distill.learned import LearnedImages
from ddcal.distill.limits import diverged, limited
from ddcal.distill.unroll import Method, Tensors, UnrollGradient, method_of, unroll_gradient
from ddcal.divergence import Looks, largest_of, largest_problem
from ddcal.errors import DivergedError
from ddcal.moving import move_together
from ddcal.networks import Network, predict_logits
from ddcal.seeding import generator

GRADIENT_COSINE = "distill/gradient_cosine"
"""The metric that says how near an approximate gradient is to the exact one."""

LOWEST_RATE = 1e-6
"""The learned rate is clamped to this; a logarithmic parametrisation would freeze it (method.md, MTT)."""


def trajectory_distance(parameters: Tensors, target: Tensors, start: Tensors) -> Tensor:
    """Return ‖θ_N − θ*‖² / ‖θ_0 − θ*‖² over all parameters, a scalar (method.md, MTT).

    Args:
        parameters: The student's weights after its last step; differentiable.
        target: The expert's weights some epochs later.
        start: Where both began.
    """
    moved = torch.stack([(p - t).square().sum() for p, t in zip(parameters, target, strict=True)]).sum()
    length = torch.stack([(s - t).square().sum() for s, t in zip(start, target, strict=True)]).sum()
    return moved / length


class TrajectoryMatching(LearnedImages):
    """MTT (``backbone: mtt``): images and the student's learning rate, one update of both an iteration.

    Attributes:
        learning_rate: The learned rate.
        label_logits: Of learned labels (``label_lr``), float32 (M, K); ``labels`` are their softmax. None of classes.
        clamps: How often the rate had to be held at `LOWEST_RATE`.
        cosines: Iteration (from 1) → the cosine of the image gradient that was taken to the exact one, where
            ``gradient: tesla``, an approximation, is asked for: in the first iteration and at the probe's points.
    """

    learning_rate: float
    label_velocity: Tensor

    def __init__(
        self, dataset: Dataset, config: DistillConfig, seed: int, device: torch.device, experts: Experts
    ) -> None:
        mtt = config.mtt
        assert mtt.student_steps and mtt.expert_epochs and mtt.max_start, "the config must be resolved"
        assert mtt.image_lr and mtt.rate and mtt.rate_lr, "the config must be resolved"
        self.experts, self.settings = experts, mtt
        self.network = skeleton(dataset, config, generator(seed, "distill", "skeleton")).to(device)
        super().__init__(dataset, config, seed, device, mtt.init)
        self.steps, self.expert_epochs, self.max_start = mtt.student_steps, mtt.expert_epochs, mtt.max_start
        self.image_lr, self.rate_lr = mtt.image_lr, mtt.rate_lr
        self.learning_rate, self.rate_velocity, self.clamps = mtt.rate, 0.0, 0
        self.names = [name for name, _ in self.network.named_parameters()]
        shape = (dataset.channels, dataset.image_size, dataset.image_size)
        taken = min(mtt.batch or len(self.labels), len(self.labels)) * self.steps
        self.method = method_of(mtt.gradient, self.network, shape, taken)
        self.label_logits: Tensor | None = None
        if mtt.label_lr:
            self._learn_labels(self.first_logits(), torch.zeros(len(self.labels), dataset.num_classes, device=device))
        self.cosines: dict[int, float] = {}
        points = config.probe.points if mtt.gradient == "tesla" else 0
        self.compared = {1, *(math.ceil(k * self.iterations / points) for k in range(1, points + 1))}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How near the gradients that were taken are to the exact ones, of an approximation."""
        return {"gradient": {"approximation": "tesla", "cosine_to_exact": self.cosines}} if self.cosines else {}

    def facts(self) -> Mapping[str, float]:
        """Return the last cosine that the gradient of an approximation (``tesla``) had to the exact one."""
        return {GRADIENT_COSINE: list(self.cosines.values())[-1]} if self.cosines else {}

    def final_facts(self) -> Mapping[str, float]:
        """Return the lowest such cosine."""
        return {GRADIENT_COSINE: min(self.cosines.values())} if self.cosines else {}

    def step(self) -> float:
        """Run one iteration and return its loss, the normalised squared distance.

        Raises:
            DivergedError: if the loss, an updated image or the rate is not finite or has exploded.
        """
        self.mask.begin(self.iteration, self.shape)
        draws = generator(self.seed, "distill", "trajectory", self.iteration)
        expert = int(torch.randint(len(self.experts), (1,), generator=draws))
        begin = self.drawn_start(draws)
        weights = [self.experts.weights(expert, epoch) for epoch in (begin, begin + self.expert_epochs)]
        start, target = (unflatten(vector, self.network) for vector in move_together(weights, self.device))
        batches = self._batches()
        augmentations = self._augmentations([len(chosen) for chosen in batches])
        self.mask.draw_steps([(len(chosen), *self.shape[1:]) for chosen in batches])

        learned = [self.stored] if self.label_logits is None else [self.stored, self.label_logits]

        def step_loss(step: int, parameters: Tensors, inputs: Tensors) -> Tensor:
            chosen = batches[step]
            images = self.mask.apply_at(step, self.decoded(inputs[0], chosen), chosen)
            images = augment(images, augmentations[step])
            named = dict(zip(self.names, parameters, strict=True))
            labels = self.device_labels[chosen] if len(inputs) == 1 else inputs[1][chosen].softmax(1)
            return cross_entropy(functional_call(self.network, named, (images,)), labels)

        def gradient(method: Method) -> UnrollGradient:
            return unroll_gradient(
                step_loss,
                lambda parameters, inputs: trajectory_distance(parameters, target, start),
                start,
                learned,
                torch.full((), self.learning_rate, device=self.device),
                self.steps,
                method=method,
                segment=max(1, round(math.sqrt(self.steps))),
            )

        found = gradient(self.method)
        if self.settings.gradient == "tesla" and self.iteration + 1 in self.compared:
            taken, exact = (value.inputs[0].flatten().cpu().double() for value in (found, gradient("exact")))
            self.cosines[self.iteration + 1] = float(cosine_similarity(taken, exact, dim=0))
        looks, seen = Looks(self.device), list[float]()
        looks.at(found.loss, seen.append)
        also = (
            f", or lower the student's rate, learned from distill.mtt.rate ({self.settings.rate:g}) with "
            f"distill.mtt.rate_lr ({self.rate_lr:g}) and now {self.learning_rate:g}"
        )
        rate, momentum, key = self.image_lr, self.settings.momentum, "distill.mtt.image_lr"
        with self.as_before_if_diverged():
            self.descend(found.inputs[0], rate, momentum, found.loss, key, also=also, looks=looks)
            looks.at(found.learning_rate, self._learn_rate)
            labels = self._stepped_labels(found.inputs[1], looks) if len(learned) > 1 else None
            looks.now()
        if labels is not None:
            self._learn_labels(*labels)
        self.iteration += 1
        return seen[0]

    def state(self) -> dict[str, Tensor]:
        """Return copies of what the next iteration starts from."""
        learned = torch.tensor([self.learning_rate, self.rate_velocity, float(self.clamps)], dtype=torch.float64)
        compared = torch.tensor(list(self.cosines.items()), dtype=torch.float64).reshape(-1, 2)
        state = super().state() | {"rate": learned, "cosines": compared}
        if self.label_logits is not None:
            state |= {
                "label_logits": self.label_logits.cpu().clone(),
                "label_velocity": self.label_velocity.cpu().clone(),
            }
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        super().restore(state)
        self.learning_rate, self.rate_velocity, clamps = state["rate"].tolist()
        self.clamps = int(clamps)
        self.cosines = {int(iteration): cosine for iteration, cosine in state["cosines"].tolist()}
        if self.label_logits is not None:
            self._learn_labels(state["label_logits"].to(self.device), state["label_velocity"].to(self.device))

    def _batches(self) -> list[Tensor]:
        """Return the images of every student step: without replacement, reshuffled when used up.

        The smaller batch that is left of a pass is its last one, or with ``remainder: first`` its first.
        """
        count = len(self.labels)
        size = min(self.settings.batch or count, count)
        stream = generator(self.seed, "distill", "order", self.iteration)
        batches: list[Tensor] = []
        while len(batches) < self.steps:
            batches_of_pass = torch.randperm(count, generator=stream).split(size)
            batches += batches_of_pass[::-1] if self.settings.remainder == "first" else batches_of_pass
        return move_together(batches[: self.steps], self.device)

    def _augmentations(self, counts: list[int]) -> list[Augmentation]:
        """Return DSA's augmentation of every student step, for as many images as it has."""
        size, iteration = self.dataset.image_size, self.iteration
        drawn = [
            draw_augmentation(
                count,
                size,
                generator(self.seed, "distill", f"augment-{step}", iteration),
                siamese=False,
                flip=self.flip,
            )
            for step, count in enumerate(counts)
        ]
        return move_augmentations(drawn, self.device)

    def drawn_start(self, draws: torch.Generator) -> int:
        """Return the epoch of an expert at which the student starts."""
        return int(torch.randint(self.max_start, (1,), generator=draws))

    def first_logits(self) -> Tensor:
        """Return the logits (M, K) that labels begin as: the first expert's, after its last epoch."""
        return predict_logits(self.last_network(0), self.images)

    def last_network(self, expert: int) -> Network:
        """Return an expert as it is after its last epoch."""
        network = copy.deepcopy(self.network)
        load_weights(network, self.experts.weights(expert, self.config.mtt.kept_epochs))
        return network

    def _learn_labels(self, logits: Tensor, velocity: Tensor) -> None:
        """Take logits of labels (M, K) and their momentum for those of now."""
        self.label_logits, self.label_velocity = logits.clone(), velocity.clone()
        self.labels = self.label_logits.cpu().double().softmax(1).float()

    def _stepped_labels(self, gradient: Tensor, looks: Looks) -> tuple[Tensor, Tensor]:
        """Return the logits of labels and their momentum after one SGD step, held by ``distill.update_limit``."""
        assert self.label_logits is not None and self.settings.label_lr is not None
        rate, limit = self.settings.label_lr, self.config.update_limit
        momentum = self.settings.momentum if self.settings.label_momentum is None else self.settings.label_momentum
        velocity = momentum * self.label_velocity + gradient
        moved = rate * velocity if limit is None else limited(rate * velocity, limit)

        def check(largest: float) -> None:
            if problem := largest_problem("a label's logit", largest):
                raise diverged(self, problem, f"lower distill.mtt.label_lr ({rate:g})")

        stepped = self.label_logits - moved
        looks.at(largest_of([stepped]), check)
        return stepped, velocity

    def _learn_rate(self, gradient: float) -> None:
        self.rate_velocity = self.settings.momentum * self.rate_velocity + gradient
        self.learning_rate -= self.rate_lr * self.rate_velocity
        if not math.isfinite(self.learning_rate):
            raise DivergedError(
                f"distill: mtt diverged in iteration {self.iteration + 1} of {self.iterations} (learned rate "
                f"{self.learning_rate:g}): lower distill.mtt.rate_lr ({self.rate_lr:g})"
            )
        if self.learning_rate < LOWEST_RATE:
            self.learning_rate, self.clamps = LOWEST_RATE, self.clamps + 1
