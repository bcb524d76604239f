"""Instance norm with a closed-form second derivative: finite differences, and torch's own norm beside it."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import group_norm

from ddcal.networks.norm import InstanceNorm, _Forward, differentiated_once


def draws(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def both(maps, weight, bias):
    ours = InstanceNorm(maps.shape[1]).to(maps.dtype)
    with torch.no_grad():
        ours.weight.copy_(weight)
        ours.bias.copy_(bias)
    return ours, lambda x: group_norm(x, maps.shape[1], ours.weight, ours.bias)


@pytest.mark.parametrize("learned", [(1, 1, 1), (1, 0, 0), (0, 1, 1), (1, 1, 0)])
def test_both_derivatives_are_those_of_finite_differences(learned):
    values = [draws(2, 3, 3, 4) * 2 + 1, draws(3, seed=1), draws(3, seed=2)]
    inputs = [value.requires_grad_(bool(wanted)) for value, wanted in zip(values, learned, strict=True)]
    norm = lambda *three: _Forward.apply(*three, 1e-5)  # noqa: E731 - gradcheck takes a function of tensors alone
    assert gradcheck(norm, inputs)
    assert gradgradcheck(norm, inputs)


def test_values_and_first_derivatives_have_the_bits_of_group_norm():
    maps = draws(5, 4, 8, 8, dtype=torch.float32)
    norm, theirs = both(maps, draws(4, seed=1), draws(4, seed=2))
    once = copy.deepcopy(norm)
    differentiated_once(nn.Sequential(once))
    assert once.once and not norm.once
    found = []
    for function in (norm, theirs, once):
        leaf = maps.clone().requires_grad_()
        out = function(leaf)
        weight, bias = (once.weight, once.bias) if function is once else (norm.weight, norm.bias)
        found.append([out.detach(), *torch.autograd.grad(out.sin().sum(), [leaf, weight, bias])])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))
    with torch.no_grad():
        assert torch.equal(norm(maps), found[1][0])


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_second_derivatives_are_those_of_torchs_chain(offset):
    """A gradient's distance to another one, differentiated for the images: what gradient matching does."""

    def second(function, norm, dtype):
        leaf = (draws(4, 3, 6, 6, dtype=torch.float32) + offset).to(dtype).requires_grad_()
        gradients = torch.autograd.grad(
            function(leaf).tanh().square().sum(), [leaf, *norm.parameters()], create_graph=True
        )
        return torch.autograd.grad(sum((g.sin()).sum() for g in gradients), leaf)[0]

    exact_norm, exact = both(draws(4, 3, 6, 6), draws(3, seed=1), draws(3, seed=2))
    norm, theirs = both(draws(4, 3, 6, 6, dtype=torch.float32), draws(3, seed=1), draws(3, seed=2))
    right = second(exact, exact_norm, torch.float64)
    error = (second(norm, norm, torch.float32).double() - right).norm() / right.norm()
    usual = (second(theirs, norm, torch.float32).double() - right).norm() / right.norm()
    assert error < 1e-5 and error < 5 * usual


def test_it_is_a_group_norm_to_whoever_looks():
    norm = InstanceNorm(6)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == 6
    assert list(norm.state_dict()) == ["weight", "bias"]
