"""A network that is initialised again has the values of one that is built anew, whatever was done to it before."""

import pytest
import torch

from ddcal.config import NetworkConfig
from ddcal.networks import FreshNetworks, build_network

SHAPE = (3, 16, 4)


@pytest.mark.parametrize(
    "config", [NetworkConfig(width=8), NetworkConfig(width=8, norm="batch"), NetworkConfig(name="mlp", width=8)]
)
def test_each_network_is_the_one_that_is_built(config):
    networks, built, drawn = FreshNetworks(config, *SHAPE, torch.device("cpu")), *map(torch.Generator, ["cpu"] * 2)
    for _ in range(2):
        expected = build_network(config, *SHAPE, built).state_dict()
        network = networks.draw(drawn)
        assert network.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
        network(torch.randn(2, 3, 16, 16, generator=torch.Generator())).sum().backward()  # moves running statistics
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(1.0)
