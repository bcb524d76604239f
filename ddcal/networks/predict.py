"""Logits of many images, in batches, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddcal.compiling import is_compiled

CPU_BATCH, GPU_BATCH = 32, 512
"""Images a forward pass: on a CPU so few that activations stay in its caches (ConvNets of width 32 and 128 at 32 × 32:
1.5 to 3 times as fast as 512, with the same bits), on a GPU so many that it is busy."""


def predict_logits(network: nn.Module, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the network's logits in evaluation mode; every module's training flag is restored afterwards.

    Equal inputs and an equal batch size give equal bits on one device and thread count.

    Args:
        network: Maps float (N, C, H, W) to logits (N, K).
        images: float (N, C, H, W), on any device: batches are moved to the network.
        batch_size: Images per forward pass; default: `CPU_BATCH` or `GPU_BATCH`, by where the network is.

    Returns:
        float32 (N, K) on the images' device, without gradient.

    Raises:
        ValueError: if batch_size is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    parameter = next(network.parameters(), None)
    device = images.device if parameter is None else parameter.device
    size = batch_size or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        # Not inference_mode: its tensors could not be used in the gradient of a temperature.
        with torch.no_grad():
            batches = [_logits(network, batch.to(device), size).to(images.device) for batch in images.split(size)]
    finally:
        for module, flag in flags:
            module.training = flag
    return torch.cat(batches)


def _logits(network: nn.Module, batch: Tensor, size: int) -> Tensor:
    """Return the logits of a batch of at most ``size``; a compiled network sees whole batches alone."""
    missing = size - len(batch) if is_compiled(network) else 0
    if missing:
        batch = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
    logits: Tensor = network(batch)
    return logits[: size - missing].float()
