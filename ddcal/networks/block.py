"""A ConvNet's norm, ReLU and pooling as one operation on a few images at a time: the bits of the three, in less time.

One after another they write and read maps of tens of megabytes. Here a few images go through all three while they are
in a core's cache, and of the maps nothing is kept for the derivative but what the convolution has made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ddcal.networks.norm import InstanceNorm
from ddcal.networks.pooling import CACHED, pool_into, spread_into

LARGE, LARGE_FORWARDS = 2**20, 2**18
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
        float32 (N, C, ⌊H/2⌋, ⌊W/2⌋), with the bits of `InstanceNorm`, ReLU and `HalvingPool` one after another.
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
        for part, small in zip(maps.split(step), pooled.split(step), strict=True):
            normed, mean, scale = _normed(part, weight, bias, eps)
            pool_into(small, normed.relu_())
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
        channels, (height, width) = maps.shape[1], maps.shape[2:]
        whole = (torch.zeros if height % 2 or width % 2 else torch.empty)(step, *maps.shape[1:])
        sums = list[Tensor]()
        parts = (one.split(step) for one in (maps, gradient, of_maps, means, scales))
        for part, small, found, mean, scale in zip(*parts, strict=True):
            images = len(part)
            spread = whole[:images]
            spread_into(spread, small)
            spread = torch.ops.aten.threshold_backward(spread, _normed(part, weight, bias, ctx.eps)[0], 0)
            sizes = (images, channels, height * width, channels)
            found.copy_(_derivatives(spread, part, mean, scale, weight, sizes, (True, False, False))[0])
            sums.append(_sums(spread, part))
        of_weight, of_bias = _of_weight_and_bias(torch.cat(sums), means, scales, weight)
        return of_maps, of_weight, of_bias, None


def _step(maps: Tensor) -> int:
    """Return how many images go together: so few that their maps stay in the cache of each core that computes."""
    return max(1, CACHED * torch.get_num_threads() // maps[0].numel())


def _normed(part: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    images, channels = part.shape[:2]
    return torch.native_group_norm(part, weight, bias, images, channels, part[0, 0].numel(), channels, eps)


def _derivatives(
    gradient: Tensor,
    maps: Tensor,
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    sizes: tuple[int, int, int, int],
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return torch's derivatives of a group norm by maps, γ and β; ``sizes``: images, channels, pixels and groups."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_group_norm_backward(
        gradient, maps, mean, scale, weight, *sizes, list(wanted)
    )
    return found


def _sums(gradient: Tensor, maps: Tensor) -> Tensor:
    """Return Σ g·x and Σ g over the pixels of each map, (n, C, 2): what torch adds up inside.

    They are its derivatives by γ and β where each map is a channel, with mean 0 and scale 1.
    """
    images, channels, height, width = maps.shape
    rows = (1, images * channels, height, width)
    mean, scale = maps.new_zeros(1, rows[1]), maps.new_ones(1, rows[1])
    sizes = (1, rows[1], height * width, rows[1])
    _, products, plain = _derivatives(
        gradient.view(rows), maps.view(rows), mean, scale, None, sizes, (False, True, True)
    )
    return torch.stack((products, plain), 1).view(images, channels, 2)


def _of_weight_and_bias(sums: Tensor, means: Tensor, scales: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂L/∂γ and ∂L/∂β, (C,) each, added up over the images by torch's own derivative.

    It is given maps of three pixels with the same two sums: pixels 1, 0, 0 with gradients Σ g·x, −Σ g·x, Σ g.
    """
    images, channels = sums.shape[:2]
    products, plain = sums.unbind(2)
    gradient = torch.stack((products, -products, plain), 2)
    pixels = sums.new_tensor((1.0, 0.0, 0.0)).expand(images, channels, 3).contiguous()
    sizes = (images, channels, 3, channels)
    _, of_weight, of_bias = _derivatives(gradient, pixels, means, scales, weight, sizes, (False, True, True))
    return of_weight, of_bias
