"""Copies side by side say what each says alone, in values and in first and second derivatives."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ddcal.config import NetworkConfig
from ddcal.networks import ConvNet, build_network
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


def _appended(network):
    network.blocks[1].append(torch.nn.Dropout(0.5))


def _replaced(place, module):
    def change(network):
        network.blocks[1][place] = module

    return change


@pytest.mark.parametrize(
    ("change", "goes"),
    [
        (_replaced(2, torch.nn.GELU()), True),
        (_appended, False),
        (_replaced(2, torch.nn.PReLU()), False),
        (_replaced(0, torch.nn.Conv2d(6, 6, 3, padding=1, bias=False)), False),
        (_replaced(0, torch.nn.Conv2d(6, 6, 3, padding=2, dilation=2)), False),
    ],
)
def test_a_convnet_that_was_changed_goes_side_by_side_only_where_that_is_the_same(change, goes):
    network = convnet()
    change(network)
    network = network.double()
    assert goes_side_by_side(network) == goes
    if goes:
        images = torch.randn(1, IMAGES, 1, 8, 8, generator=generator(3, "test", "images"), dtype=torch.float64)
        weights = [one.detach()[None] for one in network.parameters() if one.ndim > 1]
        torch.testing.assert_close(logits_side_by_side(network, images, weights)[0], network(images[0]))


def test_a_convnet_with_a_pass_of_its_own_does_not_go_side_by_side():
    class Scaled(ConvNet):
        def features(self, images):
            return 2.0 * super().features(images)

    class Wider(ConvNet):
        """Nothing but a constructor of its own."""

        def __init__(self):
            super().__init__(1, 8, CLASSES, width=12, depth=2)

    assert not goes_side_by_side(Scaled(1, 8, CLASSES, width=6, depth=2)) and goes_side_by_side(Wider())
