"""Copies side by side say what each says alone, in values and in first and second derivatives."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ddcal.config import NetworkConfig
from ddcal.networks import build_network
from ddcal.networks.side_by_side import first_width, goes_side_by_side, logits_side_by_side
from ddcal.seeding import generator

COPIES, IMAGES, CLASSES = 3, 4, 5


def convnet(channels=1, size=8, **settings):
    network = build_network(
        NetworkConfig(width=6, **{"depth": 2, **settings}), channels, size, CLASSES, generator(0, "test", "network")
    ).double()
    stream = generator(1, "test", "norms")
    for parameter in network.parameters():  # norms that do something
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
    return network


@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 9), (1, 28)])
def test_copies_say_what_each_says_alone(norm, channels, size):
    network, stream = convnet(channels, size, norm=norm), generator(2, "test", "images")
    images = torch.randn(COPIES, IMAGES, channels, size, size, generator=stream, dtype=torch.float64)
    labels = torch.randint(CLASSES, (COPIES, IMAGES), generator=stream)
    own = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    shifts = [0.1 * torch.randn(COPIES, *one.shape, generator=stream, dtype=torch.float64) for one in own]
    weights = [(one.detach() + shift).requires_grad_() for one, shift in zip(own, shifts, strict=True)]
    together = images.clone().requires_grad_()
    logits = logits_side_by_side(network, together, weights)
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / IMAGES
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    (second,) = torch.autograd.grad(sum(one.square().sum() for one in gradients), together)

    for copy in range(COPIES):
        for parameter, weight in zip(own, weights, strict=True):
            parameter.data = weight[copy].detach().clone()
        alone = images[copy].clone().requires_grad_()
        said = network(alone)
        torch.testing.assert_close(logits[copy], said, rtol=1e-11, atol=1e-11)
        first = torch.autograd.grad(cross_entropy(said, labels[copy]), own, create_graph=True)
        for mine, theirs in zip(gradients, first, strict=True):
            torch.testing.assert_close(mine[copy], theirs, rtol=1e-9, atol=1e-11)
        (of_images,) = torch.autograd.grad(sum(one.square().sum() for one in first), alone)
        torch.testing.assert_close(second[copy], of_images, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "goes"),
    [
        ({"norm": "instance"}, True),
        ({"norm": "none"}, True),
        ({"norm": "batch"}, False),
        ({"name": "mlp", "width": None, "depth": None, "norm": None}, False),
    ],
)
def test_what_goes_side_by_side(settings, goes):
    network = build_network(
        NetworkConfig(**{"width": 6, "depth": 2, **settings}), 1, 8, CLASSES, generator(0, "test", "network")
    )
    assert goes_side_by_side(network) == goes
    if goes:
        assert first_width(network) == 6
