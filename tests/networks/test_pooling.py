"""Pooling by slices: what torch's own gives, to rounding, in an order that is promised; derivatives of any order."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import avg_pool2d

from ddcal.networks import pooling
from ddcal.networks.pooling import HalvingPool

SIDES = [(2, 2), (8, 8), (5, 4), (7, 9), (1, 1)]


@pytest.fixture(autouse=True)
def by_slices(monkeypatch):
    monkeypatch.setattr(pooling, "TINY", 0)


def maps(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def rows_first(x):
    """The promised order, for values and whatever is differentiated: (a + c) + (b + d) of pixels a, b above c, d."""
    even = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    a, b, c, d = (even[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1))
    return ((a + c) + (b + d)) * 0.25


@pytest.mark.parametrize("sides", SIDES[:-1])
@pytest.mark.parametrize("cached", [1, 2**18])
def test_values_and_derivatives_are_those_of_torchs_and_have_promised_bits(sides, cached, monkeypatch):
    monkeypatch.setattr(pooling, "CACHED", cached)
    found = []
    for function in (HalvingPool(), rows_first, lambda x: avg_pool2d(x, 2)):
        leaf = maps(7, 3, *sides).requires_grad_()
        out = function(leaf)
        (first,) = torch.autograd.grad(out.sin().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.cos().sum(), leaf)
        found.append([out.detach(), first.detach(), second])
    for own, promised, torchs in zip(*found, strict=True):
        assert torch.equal(own, promised)
        torch.testing.assert_close(own, torchs)


@pytest.mark.parametrize("sides", SIDES[:-1])
def test_without_a_gradient_it_has_the_same_bits(sides):
    leaf = maps(7, 3, *sides)
    with torch.no_grad():
        assert torch.equal(HalvingPool()(leaf), rows_first(leaf))
    assert torch.equal(HalvingPool()(leaf.requires_grad_()).detach(), rows_first(leaf.detach()))


@pytest.mark.parametrize("sides", SIDES[:-1])
def test_derivatives_are_those_of_finite_differences(sides):
    leaf = maps(2, 2, *sides, dtype=torch.float64).requires_grad_()
    assert gradcheck(HalvingPool(), [leaf]) and gradgradcheck(HalvingPool(), [leaf])


def test_tiny_maps_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(pooling._Pool, "forward", None)  # the slices are not called
    monkeypatch.setattr(pooling, "TINY", 3 * 2 * 6 * 6)
    HalvingPool()(maps(3, 2, 6, 6).requires_grad_()).sum().backward()
    with pytest.raises(TypeError):
        HalvingPool()(maps(4, 2, 6, 6).requires_grad_())
