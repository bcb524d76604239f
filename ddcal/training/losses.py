"""Training losses by name (method.md, During-training baselines); what mixup does to a batch is in `mixup`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ddcal.config import TrainConfig
from ddcal.config.training import SAMPLE_DEPENDENT_GAMMAS, SAMPLE_DEPENDENT_SHARE

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits float (N, K) and labels int64 (N,); returns the batch's mean loss, a scalar."""


def make_loss(config: TrainConfig) -> Loss:
    """Return the loss that ``config.loss`` names; for ``mixup`` the cross-entropy, which it takes of both partners."""
    match config.loss:
        case "cross_entropy" | "mixup":
            return cross_entropy
        case "label_smoothing":
            return functools.partial(smoothed_cross_entropy, epsilon=config.label_smoothing.epsilon)
        case "focal":
            gamma = None if config.focal.sample_dependent else config.focal.gamma
            return functools.partial(focal_loss, gamma=gamma)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return the cross-entropy to targets of which ``epsilon`` is spread over all K classes, the true one among them.

    That is the mean of −Σ_k q_k log p_k with q = (1 − epsilon) · onehot + epsilon / K (Szegedy et al., CVPR 2016;
    Müller, Kornblith, Hinton, NeurIPS 2019), p the softmax.

    Args:
        logits: float (N, K), not normalised.
        labels: int64 (N,).
        epsilon: In [0, 1]; 0 is the cross-entropy.
    """
    return cross_entropy(logits, labels, label_smoothing=epsilon)


def focal_loss(logits: Tensor, labels: Tensor, gamma: float | None) -> Tensor:
    """Return the mean of −(1 − p)^gamma · log p, p the probability of the true class.

    Lin et al., ICCV 2017; for calibration, and with gamma by sample, Mukhoti et al., NeurIPS 2020.

    Args:
        logits: float (N, K), not normalised.
        labels: int64 (N,).
        gamma: At least 0, where 0 is the cross-entropy; None takes 5 for samples with p < 0.2 and 3 for the others.
    """
    log_p = log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    # Not 1 − exp, which loses all digits near p = 1. At p = 1 itself a gamma below 1 has no slope: hence the clamp.
    rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(logits.dtype).tiny)
    if gamma is None:
        hard, easy = SAMPLE_DEPENDENT_GAMMAS
        below = log_p.detach().exp() < SAMPLE_DEPENDENT_SHARE
        weight = torch.where(below, rest**hard, rest**easy)
    else:
        weight = rest**gamma
    return -(weight * log_p).mean()
