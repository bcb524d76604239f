import math

import pytest
import torch
from torch import nn

from ddcal.config import NetworkConfig
from ddcal.networks import build_network, default_depth
from ddcal.seeding import generator


def build(channels=3, size=32, classes=10, index=0, **config):
    return build_network(NetworkConfig(**config), channels, size, classes, generator(0, "test", "net", index))


@pytest.mark.parametrize(
    ("channels", "size", "classes", "parameters"),
    [(3, 32, 10, 320_010), (3, 32, 100, 504_420), (3, 64, 200, 857_160), (3, 128, 10, 615_690)],
)
def test_parameter_counts_of_the_paper(channels, size, classes, parameters):
    assert sum(p.numel() for p in build(channels, size, classes).parameters()) == parameters


@pytest.mark.parametrize(("size", "depth"), [(8, 2), (16, 2), (28, 3), (32, 3), (64, 4), (128, 5), (4, 2), (256, 6)])
def test_default_depth(size, depth):
    assert default_depth(size) == depth
    assert len(build(1, size, width=2).blocks) == depth


@pytest.mark.parametrize(("channels", "size", "sides"), [(1, 8, (4, 2)), (1, 28, (16, 8, 4)), (3, 28, (14, 7, 3))])
def test_block_features_and_embedding_agree(channels, size, sides):
    network = build(channels, size, width=5)
    images = torch.randn((2, channels, size, size), generator=generator(0, "test", "images"))
    blocks = network.block_features(images)
    assert [tuple(block.shape) for block in blocks] == [(2, 5, side, side) for side in sides]
    assert torch.equal(network.features(images), blocks[-1].flatten(1))
    assert torch.equal(network(images), network.classifier(network.features(images)))


@pytest.mark.parametrize(
    ("norm", "kind"), [("instance", nn.GroupNorm), ("batch", nn.BatchNorm2d), ("none", nn.Identity)]
)
def test_norms(norm, kind):
    network = build(norm=norm, width=4)
    norms = [block[1] for block in network.blocks]
    assert all(isinstance(layer, kind) for layer in norms)
    for layer in norms[:1] if norm != "none" else ():
        assert bool((layer.weight == 1).all()) and bool((layer.bias == 0).all())
    if norm == "batch":
        assert norms[0].running_mean.tolist() == [0.0] * 4 and norms[0].running_var.tolist() == [1.0] * 4
        assert norms[0].num_batches_tracked.item() == 0
    if norm == "instance":
        assert norms[0].num_groups == 4


def test_initial_values_have_pytorchs_distribution():
    ours = build()
    theirs = nn.Conv2d(128, 128, 3)
    bound = 1 / math.sqrt(128 * 9)
    weight = ours.blocks[1][0].weight.detach()
    assert weight.abs().max() <= bound and weight.abs().max() > 0.999 * bound
    assert abs(weight.std() - bound / math.sqrt(3)) < 0.01 * bound
    assert abs(weight.std() - theirs.weight.std()) < 0.01 * bound
    bias = ours.blocks[0][0].bias.detach()
    assert bias.abs().max() <= 1 / math.sqrt(27) and bias.abs().max() > 0.8 / math.sqrt(27)
    assert ours.classifier.weight.abs().max() <= 1 / math.sqrt(2048)


def test_the_generator_alone_decides_and_the_global_one_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(width=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build(width=4), build(width=4, index=1)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad and a.device.type == "cpu"
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_too_deep_for_the_image():
    assert build(1, 8, depth=3, width=2)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert build(1, 28, depth=5, width=2)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"network\.depth is 4.*8-px.*at most 3"):
        build(1, 8, depth=4)


@pytest.mark.parametrize("sizes", [(0, 32, 10), (3, 0, 10), (3, 32, 0)])
def test_empty_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="is 0; it must be at least 1"):
        build(*sizes)
