"""Batch norm whose statistics are fixed from one batch, against them computed by hand."""

import torch

from ddcal.config import NetworkConfig
from ddcal.networks import build_network, fix_statistics
from ddcal.seeding import generator


def build(norm):
    return build_network(NetworkConfig(width=3, depth=2, norm=norm), 2, 8, 4, generator(0, "test", "net")).double()


def images(count, index):
    return torch.randn(count, 2, 8, 8, generator=generator(0, "test", "images", index), dtype=torch.float64)


def test_each_layer_gets_what_reaches_it():
    network, batch = build("batch"), images(6, 0)
    network(images(5, 1))  # moves the running statistics, of which nothing is left
    fix_statistics(network, batch)
    maps = batch
    for block in network.blocks:
        maps = block[0](maps)
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=True)
        torch.testing.assert_close(block[1].running_mean, mean)
        torch.testing.assert_close(block[1].running_var, variance)
        biased = maps.var((0, 2, 3), unbiased=False)[:, None, None]
        normalised = (maps - mean[:, None, None]) / (biased + 1e-5).sqrt()
        maps = torch.nn.functional.avg_pool2d(normalised.relu(), 2)


def test_they_are_fixed_until_train_is_called():
    network = build("batch")
    fix_statistics(network, images(6, 0))
    before = {name: value.clone() for name, value in network.named_buffers()}
    alone = network(images(4, 2)[:1])
    torch.testing.assert_close(network(images(4, 2))[:1], alone)  # who else is in the batch does not matter
    assert network.training, "the network itself stays in training mode"
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    network.train()
    network(images(4, 2))
    assert not torch.equal(network.blocks[0][1].running_mean, before["blocks.0.1.running_mean"])
    assert network.blocks[0][1].momentum == 0.1


def test_without_batch_norm_nothing_is_computed():
    network = build("instance")
    fix_statistics(network, torch.full((1,), float("nan")))  # no batch of images at all
    assert network.training
