"""Instance norm whose second derivative is a formula, where torch's own is a chain of thirty operations.

Gradient matching and unrolled loops differentiate gradients, and half of their time went into that chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class InstanceNorm(nn.GroupNorm):
    """One group a channel, affine: y = γ·x̂ + β with x̂ = (x − μ)·r and r = 1/√(var + ε), over the pixels of each map.

    Values and first derivatives are those of ``torch.nn.functional.group_norm``; second ones are closed-form
    (`_Backward`), and there are no third ones. A compiler gets torch's own, which it fuses with what is around it, and
    so does a loop that differentiates once (`differentiated_once`): torch's own is called faster.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.once = False

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, C, H, W) of maps (N, C, H, W)."""
        if torch.compiler.is_compiling() or self.once or not torch.is_grad_enabled():
            return super().forward(maps)
        return instance_norm(maps, self.weight, self.bias, self.eps)


def differentiated_once(network: nn.Module) -> None:
    """Tell a network's norms that nothing is differentiated twice: the same values and derivatives, in less time."""
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.once = True


@contextmanager
def once_only(network: nn.Module) -> Iterator[None]:
    """Within it `differentiated_once` holds for a network that is differentiated twice elsewhere."""
    norms = [module for module in network.modules() if isinstance(module, InstanceNorm)]
    before = [norm.once for norm in norms]
    for norm in norms:
        norm.once = True
    try:
        yield
    finally:
        for norm, was in zip(norms, before, strict=True):
            norm.once = was


def instance_norm(maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return maps (N, C, H, W) normed as by `InstanceNorm` with weight γ and bias β, (C,) each."""
    normed: Tensor = _Forward.apply(maps, weight, bias, eps)
    return normed


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        images, channels = x.shape[:2]
        x = x.contiguous()
        y, mean, rstd = torch.native_group_norm(x, weight, bias, images, channels, x[0, 0].numel(), channels, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        return (*_Backward.apply(gradient, x, weight, mean, rstd, ctx.needs_input_grad[:3]), None)


class _Backward(torch.autograd.Function):
    """The first derivative, for g = ∂L/∂y and means ⟨·⟩ over the pixels of a map.

    ∂L/∂x = γ·r·(g − ⟨g⟩ − x̂·⟨g·x̂⟩), ∂L/∂γ = Σ g·x̂ and ∂L/∂β = Σ g. Its own derivative, for cotangents u of ∂L/∂x, v of
    ∂L/∂γ and w of ∂L/∂β, with a = ⟨u·x̂⟩, b = ⟨g·x̂⟩ and c = ⟨u·g⟩ − ⟨u⟩·⟨g⟩:

        ∂/∂g = γ·r·(u − ⟨u⟩ − x̂·a) + v·x̂ + w
        ∂/∂γ = Σ r·(c − a·b) over images and pixels
        ∂/∂x = r·((v − γ·r·a)·(g − ⟨g⟩) − γ·r·b·(u − ⟨u⟩) − x̂·(γ·r·(c − 3·a·b) + v·b))
    """

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        images, channels = x.shape[:2]
        g = g.contiguous()
        ctx.save_for_backward(g, x, weight, mean, rstd)
        ctx.set_materialize_grads(False)
        found = torch.ops.aten.native_group_norm_backward(
            g, x, mean, rstd, weight, images, channels, x[0, 0].numel(), channels, list(wanted)
        )
        return tuple(one if asked else None for one, asked in zip(found, wanted, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None, w: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, rstd = ctx.saved_tensors
        images, channels = x.shape[:2]
        pixels = x[0, 0].numel()
        r, mu = rstd.view(images, channels, 1), mean.view(images, channels, 1)
        gamma = weight.view(1, channels, 1)
        flat_g, flat_x = g.view(images, channels, pixels), x.view(images, channels, pixels)
        need_g, need_x, need_gamma = ctx.needs_input_grad[:3]
        g_mean = flat_g.mean(2, keepdim=True)
        b = (_dot(flat_g, flat_x) / pixels - mu * g_mean) * r
        zero = torch.zeros_like(b)
        flat_u: Tensor | None = None
        if u is None:
            u_mean = a = c = zero
        else:
            flat_u = u.contiguous().view(images, channels, pixels)
            u_mean = flat_u.mean(2, keepdim=True)
            a = (_dot(flat_u, flat_x) / pixels - mu * u_mean) * r
            c = _dot(flat_u, flat_g) / pixels - u_mean * g_mean
        v_one = zero if v is None else v.view(1, channels, 1)
        scale = gamma * r
        of_g = of_x = of_gamma = None
        if need_g:
            slope = (v_one - scale * a) * r
            shift = -scale * u_mean - slope * mu
            if w is not None:
                shift = shift + w.view(1, channels, 1)
            of_g = torch.addcmul(shift, flat_x, slope)
            if flat_u is not None:
                of_g.addcmul_(flat_u, scale)
            of_g = of_g.view_as(x)
        if need_x:
            along_g, along_u = r * (v_one - scale * a), -r * scale * b
            along_x = -r * r * (scale * (c - 3.0 * a * b) + v_one * b)
            shift = -(along_g * g_mean + along_u * u_mean + along_x * mu)
            of_x = torch.addcmul(shift, flat_x, along_x).addcmul_(flat_g, along_g)
            if flat_u is not None:
                of_x.addcmul_(flat_u, along_u)
            of_x = of_x.view_as(x)
        if need_gamma:
            of_gamma = (r * (c - a * b)).sum((0, 2)) * pixels
        return of_g, of_x, of_gamma, None, None, None


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Return the products of maps (N, C, P) summed over their pixels, (N, C, 1)."""
    images, channels, pixels = first.shape
    return torch.bmm(first.view(-1, 1, pixels), second.view(-1, pixels, 1)).view(images, channels, 1)
