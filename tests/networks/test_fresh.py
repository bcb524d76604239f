"""A network that is initialised again has the values of one that is built anew, whatever was done to it before."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from ddcal.config import NetworkConfig
from ddcal.networks import FreshNetworks, build_network
from ddcal.networks.build import give_memory

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


class Parts(nn.Module):
    """Every kind of thing that a network of somebody's own may have."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.scale = nn.Parameter(torch.ones(4, dtype=torch.float64), requires_grad=False)
        self.register_parameter("absent", None)
        self.register_buffer("kept", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("passing", torch.zeros(3), persistent=False)


def test_memory_changes_nothing_but_the_place():
    with torch.device("meta"):
        network = Parts()
    expected = Parts().to_empty(device="cpu")
    give_memory(network, torch.device("cpu"))
    assert list(network.state_dict()) == list(expected.state_dict())  # what does not persist is not in it
    for names in ("named_parameters", "named_buffers"):
        for (name, ours), (other, theirs) in zip(*(getattr(one, names)() for one in (network, expected)), strict=True):
            described = [(type(t), t.shape, t.dtype, t.device, t.requires_grad) for t in (ours, theirs)]
            assert (name, described[0]) == (other, described[1])
    assert network.absent is None


def test_building_a_network_imports_no_computer_algebra():
    """It would cost every worker more than half a CPU second."""
    script = (
        "import sys, torch\n"
        "from ddcal.config import NetworkConfig\n"
        "from ddcal.networks import FreshNetworks, build_network\n"
        "before = 'sympy' in sys.modules\n"
        "for norm in ('instance', 'batch'):\n"
        "    config = NetworkConfig(width=8, norm=norm)\n"
        "    network = build_network(config, 3, 16, 4, torch.Generator())\n"
        "    FreshNetworks(config, 3, 16, 4, torch.device('cpu')).draw(torch.Generator())\n"
        "    network(torch.zeros(2, 3, 16, 16)).sum().backward()\n"
        "assert ('sympy' in sys.modules) == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
