"""Difficulty-aligned trajectory matching (DATM): MTT whose experts' epochs come from a window that grows.

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching" (ICLR 2024). Early epochs
of an expert teach easy patterns, late ones hard ones: a set of few images is to learn the former. The epochs at which a
student starts are drawn from [T⁻, T), where T grows to T⁺ (``min_start``, ``first_max_start`` and ``max_start``). The
set begins as real images that an expert classifies correctly, and labels, which are learned too, as what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddcal.distill.mtt import TrajectoryMatching
from ddcal.distill.real import shuffled_classes
from ddcal.networks import predict_logits

LOOKED_AT = 256
"""Images that an expert classifies at once, until enough are right."""


class DifficultyAligned(TrajectoryMatching):
    """DATM (``backbone: datm``).

    Attributes:
        choosers: Which expert classified each first image correctly, int64 (M,), in the order of the set; −1 where none
            did. The logits of labels begin as what that expert answers, or the first one. None where any real images,
            or none, are taken.
    """

    choosers: Tensor | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How many of the first images an expert classified correctly, where they were chosen so."""
        if self.choosers is None:
            return super().provenance
        right = int((self.choosers >= 0).sum())
        return {**super().provenance, "first_images": {"classified_correctly": right, "of": len(self.choosers)}}

    def first_images(self) -> tuple[Tensor, Tensor]:
        """Return real images that an expert classifies correctly after its last epoch, ordered by class; and labels.

        Of every class the first in its random order that the first expert has right; where they are too few, those that
        the second has right, and so on; where they are still too few, the others in their order.
        """
        if self.settings.first_images != "correct" or self.settings.init == "noise":
            return super().first_images()
        taken, choosers = list[Tensor](), list[Tensor]()
        each = self.config.formation.factor**2
        for label, order in enumerate(shuffled_classes(self.dataset, self.config.ipc, self.seed, each)):
            chosen, by = self._chosen(order, label)
            taken.append(chosen)
            choosers.append(by)
        index, self.choosers = torch.cat(taken), torch.cat(choosers)
        train = self.dataset.train
        return train.images[index].clone(), train.labels[index].clone()

    def window(self, iteration: int) -> tuple[int, int]:
        """Return between which epochs an iteration's student may start: from the first, and before the second."""
        low, first = self.settings.min_start, self.settings.first_max_start
        assert low is not None and first is not None, "the config must be resolved"
        if first == self.max_start:
            return low, first
        until = self.settings.expand_until
        assert until, "the config must be resolved"
        return low, min(self.max_start, first + (self.max_start - first) * iteration // until)

    def drawn_start(self, draws: torch.Generator) -> int:
        """Return the epoch at which the student starts, from the iteration's window."""
        low, end = self.window(self.iteration)
        return low + int(torch.randint(end - low, (1,), generator=draws))

    def first_logits(self) -> Tensor:
        """Return the logits (M, K) of each first image's own expert."""
        if self.choosers is None:
            return super().first_logits()
        by = self.choosers.clamp_min(0)
        logits = torch.empty(len(by), self.dataset.num_classes, device=self.device)
        for expert in by.unique().tolist():
            mine = (by == expert).to(self.device)
            logits[mine] = predict_logits(self.last_network(expert), self.images)[mine]
        return logits

    def _chosen(self, order: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """Return ``per_class`` images of a class, int64 indices of training images, and which expert has each right."""
        chosen, by, left = list[int](), list[int](), order
        for expert in range(len(self.experts)):
            network, wrong = self.last_network(expert), list[Tensor]()
            for some in left.split(LOOKED_AT):
                if len(chosen) == self.per_class:
                    break
                right = predict_logits(network, self.dataset.train.images[some]).argmax(1) == label
                found = some[right][: self.per_class - len(chosen)].tolist()
                chosen, by = chosen + found, by + [expert] * len(found)
                wrong.append(some[~right])
            if len(chosen) == self.per_class:
                break
            left = torch.cat(wrong)
        missing = self.per_class - len(chosen)
        return torch.tensor(chosen + left[:missing].tolist()), torch.tensor(by + [-1] * missing)
