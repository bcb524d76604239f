"""Both forms of a warp: that of the CPU and that of a GPU."""

import math

import pytest
import torch

from ddcal.data.warp import warp
from ddcal.seeding import generator

CLOSE = {torch.float32: 1e-4, torch.float64: 1e-12}
"""Positions are rounded otherwise: by 3e-6 of a pixel at side 32 in float32."""


def matrices(count, kind):
    draws = torch.rand(count, 2, generator=generator(0, "test", "matrices"))
    if kind == "scale":
        return torch.diag_embed(draws * 0.4 + 0.8) @ torch.eye(2, 3)
    angles = (draws[:, 0] - 0.5) * math.radians(30.0)
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros(count)
    return torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)


def images(count=5, channels=3, size=8, dtype=torch.float32):
    drawn = torch.randn(count, channels, size, size, generator=generator(0, "test", "images"), dtype=dtype)
    return drawn.requires_grad_()


def derivatives(form, leaf):
    """A value, a first derivative, and a derivative of that one."""
    value = form(leaf)
    weights = torch.randn(value.shape, generator=generator(0, "test", "weights"), dtype=value.dtype).requires_grad_()
    (first,) = torch.autograd.grad((value * weights).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weights)
    return value.detach(), first.detach(), second


@pytest.mark.parametrize("kind", ["scale", "rotate"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(("size", "dtype"), [(8, torch.float32), (32, torch.float32), (9, torch.float64)])
def test_a_warp_by_index_is_grid_sample(kind, count, size, dtype):
    leaf, moved = images(size=size, dtype=dtype), matrices(count, kind)
    moved[:, :, 2] = 0.1
    found = derivatives(lambda one: warp(one, moved, by_index=True), leaf)
    wanted = derivatives(lambda one: warp(one, moved, by_index=False), leaf)
    for ours, theirs in zip(found, wanted, strict=True):
        assert float((ours - theirs).abs().max()) < CLOSE[dtype]
    assert float(found[1].abs().max()) > 0.1 and float(found[2].abs().max()) > 0.1


@pytest.mark.parametrize("count", [1, 2])
def test_its_derivatives_are_those_of_its_values(count):
    leaf, moved = images(2, 2, 4, torch.float64), matrices(count, "rotate").double()
    assert torch.autograd.gradcheck(lambda one: warp(one, moved, by_index=True), leaf)
    assert torch.autograd.gradgradcheck(lambda one: warp(one, moved, by_index=True), leaf)


def test_the_cpu_takes_grid_sample():
    leaf, moved = images(size=32), matrices(5, "rotate")
    assert torch.equal(warp(leaf, moved), warp(leaf, moved, by_index=False))
    assert not torch.equal(warp(leaf, moved), warp(leaf, moved, by_index=True))
