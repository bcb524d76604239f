"""Moving what was drawn on the CPU to where a trial computes, many at a time: each move makes a GPU's host wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one dtype on a device, moved in one buffer; for the CPU they are returned as they are.

    Args:
        tensors: On the CPU, of any shapes.
        device: Where to.
    """
    if device.type == "cpu" or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(device, non_blocking=True)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
