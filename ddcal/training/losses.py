"""Training losses by name (method.md, During-training baselines); what mixup does to a batch is in `mixup`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from ddcal.config import TrainConfig
from ddcal.config.training import SAMPLE_DEPENDENT_GAMMAS, SAMPLE_DEPENDENT_SHARE
from ddcal.divergence import usual_cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits float (N, K) and labels, int64 (N,) or probabilities float (N, K); the batch's mean loss, a scalar."""


def make_loss(config: TrainConfig) -> Loss:
    """Return the loss that ``config.loss`` names; for ``mixup`` the cross-entropy, which it takes of both partners.

    Under soft labels q the cross-entropy is the mean of −Σ_k q_k log p_k; label smoothing spreads ``epsilon`` of q, and
    mixup is the cross-entropy to mixed q (both are linear in q). The focal loss has no form for them
    (`ddcal.config.training.soft_problem`).
    """
    match config.loss:
        case "cross_entropy" | "mixup":
            return cross_entropy
        case "label_smoothing":
            return functools.partial(smoothed_cross_entropy, epsilon=config.label_smoothing.epsilon)
        case "focal":
            gamma = None if config.focal.sample_dependent else config.focal.gamma
            return functools.partial(focal_loss, gamma=gamma)
        case "kl":
            return functools.partial(distillation_loss, temperature=config.kl.temperature)


def usual_loss(config: TrainConfig, classes: int) -> float:
    """Return the size of a loss where nothing has been learned (`ddcal.divergence`)."""
    factor = config.kl.temperature**2 if config.loss == "kl" else 1.0
    return factor * usual_cross_entropy(classes)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return the cross-entropy to targets of which ``epsilon`` is spread over all K classes, the true one among them.

    That is the mean of −Σ_k q_k log p_k with q = (1 − epsilon) · label + epsilon / K (Szegedy et al., CVPR 2016;
    Müller, Kornblith, Hinton, NeurIPS 2019), p the softmax, the label one-hot or soft.

    Args:
        logits: float (N, K), not normalised.
        labels: int64 (N,), or float (N, K).
        epsilon: In [0, 1]; 0 is the cross-entropy.
    """
    return cross_entropy(logits, labels, label_smoothing=epsilon)


def distillation_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return τ² KL(q_τ ‖ p_τ), the mean over images: knowledge distillation (Hinton, Vinyals, Dean 2015, section 2).

    p_τ = softmax(logits / τ), and q_τ ∝ q^(1/τ) is the label at the same temperature: softmax(z / τ) where q is a
    teacher's softmax(z). The gradient in the logits is τ (p_τ − q_τ) / N; at τ = 1 it is that of the cross-entropy to
    q, which differs by the entropy of q. One-hot labels stay what they are, and have τ² CE(logits / τ).

    Args:
        logits: float (N, K), not normalised.
        labels: int64 (N,), or float (N, K).
        temperature: τ, above 0.
    """
    scaled = logits / temperature
    if labels.ndim == 1:
        return temperature**2 * cross_entropy(scaled, labels)
    softened = softmax(labels.log() / temperature, dim=1)
    return temperature**2 * kl_div(log_softmax(scaled, dim=1), softened, reduction="batchmean")


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
