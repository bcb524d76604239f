"""Mixup (Zhang et al., ICLR 2018): a batch mixed with itself in another order, images and losses alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddcal.training.losses import Loss


@dataclass(frozen=True, eq=False)
class Mixing:
    """How one batch is mixed.

    Attributes:
        share: λ in [0, 1], what is kept of every image.
        partners: int64 (N,), a permutation: the image that takes the rest.
    """

    share: float
    partners: Tensor

    def images(self, images: Tensor) -> Tensor:
        """Return λ x + (1 − λ) x[partners] for images float (N, C, S, S)."""
        return self.share * images + (1.0 - self.share) * images[self.partners]

    def loss(self, loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
        """Return λ loss(y) + (1 − λ) loss(y[partners]).

        Args:
            loss: Of logits and labels.
            logits: float (N, K), of the mixed images.
            labels: int64 (N,) or probabilities float (N, K), of the images before.
        """
        return self.share * loss(logits, labels) + (1.0 - self.share) * loss(logits, labels[self.partners])


def draw_mixing(count: int, alpha: float, stream: torch.Generator, device: str | torch.device = "cpu") -> Mixing:
    """Draw one share λ ~ Beta(alpha, alpha) for a whole batch, and a permutation of it.

    One uniform number goes through the inverse of the distribution, so the number of draws does not depend on alpha,
    and a larger alpha moves every share towards 1/2.

    Args:
        count: Images in the batch.
        alpha: Above 0; 1 is uniform.
        stream: Source of both draws.
        device: Where the permutation is put.
    """
    from scipy.special import betaincinv  # half a second to import

    uniform = torch.rand((), dtype=torch.float64, generator=stream)
    share = float(betaincinv(alpha, alpha, float(uniform)))
    return Mixing(share, torch.randperm(count, generator=stream).to(device))
