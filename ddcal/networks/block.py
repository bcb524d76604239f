"""A ConvNet's norm, ReLU and pooling as one operation on a few images at a time, in less time.

One after another they write and read maps of tens of megabytes. Here a few images go through all three while they are
in a core's cache, and of the maps nothing is kept for the derivative but what the convolution has made. Values and
derivatives have the bits of the three, but for the derivatives by γ and β, which are added up part by part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ddcal.networks.norm import InstanceNorm
from ddcal.networks.pooling import CACHED, add_up_into, spread_into

LARGE, LARGE_FORWARDS = 2**20, 2**15
"""Numbers of maps up to which the three are as fast one after another: with the derivative, and without."""


class ConvBlock(nn.Sequential):
    """Convolution, norm, ReLU and 2×2 average pooling, one after another."""

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (N, C', ⌊H/2⌋, ⌊W/2⌋) of maps (N, C, H, W)."""
        convolution, norm, relu, pool = self
        maps: Tensor = convolution(images)
        if isinstance(norm, InstanceNorm) and _in_parts(norm, maps):
            return norm_relu_pool(maps, norm.weight, norm.bias, norm.eps)
        pooled: Tensor = pool(relu(norm(maps)))
        return pooled


def _in_parts(norm: InstanceNorm, maps: Tensor) -> bool:
    """Return whether norm, ReLU and pooling go together: on a CPU, where nothing is differentiated twice."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or (torch.is_grad_enabled() and not norm.once):
        return False
    large = LARGE if torch.is_grad_enabled() else LARGE_FORWARDS
    return maps.device.type == "cpu" and maps.dtype == torch.float32 and maps.numel() > large


def norm_relu_pool(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the mean of every 2×2 pixels of maps, instance-normed and without what is below 0; once differentiable.

    Args:
        maps: float32 (N, C, H, W).
        weight: γ of the norm, float32 (C,).
        bias: β of the norm, float32 (C,).
        eps: ε of the norm.

    Returns:
        float32 (N, C, ⌊H/2⌋, ⌊W/2⌋): with the bits of `InstanceNorm`, ReLU and `HalvingPool`'s slices in turn.
    """
    pooled: Tensor = _NormReluPool.apply(maps.contiguous(), weight, bias, eps)
    return pooled


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        images, channels, height, width = maps.shape
        pooled = maps.new_empty(images, channels, height // 2, width // 2)
        means, scales = list[Tensor](), list[Tensor]()
        step = _step(maps)
        quarters = weight * 0.25, bias * 0.25  # a power of 2 changes no bit: the mean of 4 pixels is a sum then
        for part, small in zip(maps.split(step), pooled.split(step), strict=True):
            normed, mean, scale = _normed(part, *quarters, eps)
            add_up_into(small, normed.relu_())
            means.append(mean)
            scales.append(scale)
        ctx.eps = eps
        ctx.save_for_backward(maps, weight, bias, torch.cat(means), torch.cat(scales))
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, bias, means, scales = ctx.saved_tensors
        step, of_maps = _step(maps), torch.empty_like(maps)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        channels, (height, width) = maps.shape[1], maps.shape[2:]
        whole = (maps.new_zeros if height % 2 or width % 2 else maps.new_empty)(step, *maps.shape[1:])
        parts = (one.split(step) for one in (maps, gradient, of_maps, means, scales))
        for part, small, found, mean, scale in zip(*parts, strict=True):
            spread = whole[: len(part)]
            spread_into(spread, small)
            spread = torch.ops.aten.threshold_backward(spread, _normed(part, weight, bias, ctx.eps)[0], 0)
            by_maps, by_weight, by_bias = torch.ops.aten.native_group_norm_backward(
                spread, part, mean, scale, weight, len(part), channels, height * width, channels, [True, True, True]
            )
            found.copy_(by_maps)
            of_weight += by_weight
            of_bias += by_bias
        return of_maps, of_weight, of_bias, None


def _step(maps: Tensor) -> int:
    """Return how many images go together: so few that their maps stay in the cache of each core that computes."""
    return max(1, CACHED * torch.get_num_threads() // maps[0].numel())


def _normed(part: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    images, channels = part.shape[:2]
    return torch.native_group_norm(part, weight, bias, images, channels, part[0, 0].numel(), channels, eps)
