"""Norm, ReLU and pooling in one, on a few images at a time: what the three give one after another."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

from ddcal.config import NetworkConfig
from ddcal.networks import block, build_network, pooling, predict_logits
from ddcal.networks.block import norm_relu_pool
from ddcal.networks.norm import InstanceNorm, differentiated_once
from ddcal.networks.pooling import HalvingPool
from ddcal.seeding import generator

EPS = 1e-5


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(block, "LARGE", 0)
    monkeypatch.setattr(block, "LARGE_FORWARDS", 0)


def with_derivatives(function, *tensors):
    """What a function returns, and its derivatives along a direction."""
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    found = function(*leaves)
    return [found.detach(), *torch.autograd.grad(found, leaves, drawn(*found.shape))]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cached", [1, 900, 2**18])
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (7, 3, 8, 8), (5, 4, 7, 9), (33, 5, 6, 16), (9, 16, 32, 32)])
def test_values_and_derivatives_are_those_of_the_three(shape, cached, threads, monkeypatch):
    monkeypatch.setattr(block, "CACHED", cached)
    monkeypatch.setattr(pooling, "TINY", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        norm = InstanceNorm(shape[1])
        differentiated_once(norm)

        def three(maps, weight, bias):
            pooled = HalvingPool()(torch.relu(torch.func.functional_call(norm, (dict(weight=weight, bias=bias)), maps)))
            return pooled

        given = drawn(*shape) * 3 + 1, drawn(shape[1]) + 1, drawn(shape[1]) / 2
        expected = with_derivatives(three, *given)
        found = with_derivatives(lambda *tensors: norm_relu_pool(*tensors, norm.eps), *given)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, found[:2], expected[:2]))  # values and the derivative by the maps, to the bit
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_derivatives_are_those_of_finite_differences(monkeypatch):
    monkeypatch.setattr(block, "CACHED", 100)  # parts of two images, and one
    maps, weight, bias = drawn(5, 3, 4, 5).double(), drawn(3).double() + 1, drawn(3).double() / 2
    leaves = [one.requires_grad_() for one in (maps, weight, bias)]
    assert gradcheck(lambda *tensors: norm_relu_pool(*tensors, EPS), leaves)


@pytest.mark.parametrize(("channels", "side", "depth"), [(3, 16, 3), (1, 28, 3), (3, 21, 2)])
def test_a_network_computes_the_same_with_it(channels, side, depth, monkeypatch):
    images, labels = drawn(20, channels, side, side), torch.arange(20) % 10
    config = NetworkConfig(width=6, depth=depth)
    network = build_network(config, channels, side, 10, generator(0, "train", "network"))
    differentiated_once(network)
    monkeypatch.setattr(block, "CACHED", 5000)
    found = []
    for large in (2**60, 0):
        monkeypatch.setattr(block, "LARGE", large)
        monkeypatch.setattr(block, "LARGE_FORWARDS", large)
        loss = cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        found.append([loss.detach(), *gradients, predict_logits(network, images)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()) + 1e-7)


def test_it_is_taken_where_nothing_is_differentiated_twice(always, monkeypatch):
    taken = []
    monkeypatch.setattr(block, "norm_relu_pool", lambda *given: taken.append(1) or norm_relu_pool(*given))
    network = build_network(NetworkConfig(width=4, depth=3), 3, 16, 10, generator(0, "train", "network"))
    images = drawn(2, 3, 16, 16)
    network(images)
    network.double()(images.double())
    assert not taken, "a loop may differentiate twice"
    predict_logits(network.float(), images)
    differentiated_once(network)
    network(images)
    assert len(taken) == 3 + 3


def test_a_norm_of_another_kind_goes_one_after_another(always):
    images = drawn(4, 3, 16, 16)
    for norm in ("batch", "none"):
        network = build_network(NetworkConfig(width=4, norm=norm), 3, 16, 10, generator(0, "train", "network"))
        differentiated_once(network)
        assert network(images).shape == (4, 10)


def test_a_second_derivative_is_refused():
    maps = drawn(2, 3, 4, 4).requires_grad_()
    pooled = norm_relu_pool(maps, torch.ones(3), torch.zeros(3), EPS)
    (first,) = torch.autograd.grad(pooled.sin().sum(), maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
