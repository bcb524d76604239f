"""Batch norm with fixed statistics, for matching gradients of one class at a time (method.md, DC / DSA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fix_statistics(network: nn.Module, images: Tensor) -> None:
    """Fix the statistics of every batch norm to those of one batch; ``network.train()`` lets them go again.

    Each layer gets the mean and the variance (n − 1) of what reaches it while the layers before it normalise with this
    batch's own statistics. Nothing is left of earlier statistics.

    Args:
        network: Without batch norm it is left as it is, and nothing is computed.
        images: The batch, (N, C, H, W), on the network's device.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the running statistics become the batch's
    with torch.no_grad():
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
