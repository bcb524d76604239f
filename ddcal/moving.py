"""Moving what was drawn on the CPU to where a trial computes, many at a time and without waiting for a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of one dtype on a device, moved in one buffer; for the CPU they are returned as they are.

    The buffer is page-locked, so that CUDA copies it while the host goes on; torch keeps it until that is done.

    Args:
        tensors: On the CPU, of any shapes.
        device: Where to.
    """
    if device.type == "cpu" or not tensors:
        return list(tensors)
    sizes = [tensor.numel() for tensor in tensors]
    flat = torch.empty(sum(sizes), dtype=tensors[0].dtype, pin_memory=device.type == "cuda")
    torch.cat([tensor.reshape(-1) for tensor in tensors], out=flat)
    parts = flat.to(device, non_blocking=True).split(sizes)
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
