"""The networks of cross-architecture evaluation: shapes, parameters counted by hand, first values, and learning."""

import math

import pytest
import torch
from torch import nn

from ddcal.calibration import masked_temperature_scaling
from ddcal.config import DataConfig, NetworkConfig, TrainConfig
from ddcal.config.networks import ARCHITECTURES
from ddcal.data import load_dataset
from ddcal.networks import build_network, network_on_meta, predict_logits
from ddcal.seeding import generator
from ddcal.training import DDNNTraining

SIZES = (8, 9, 16, 28, 32, 64, 128)
REFUSED = {
    ("lenet", 8): "16 px do",
    ("lenet", 9): "16 px do",
    ("vgg11", 8): "32 px do",
    ("vgg11", 9): "32 px do",
    ("vgg11", 16): "32 px do",
    ("resnet18", 8): "instance norm leaves nothing",
}
"""Network, size → why not; with instance norm where there is one."""


def meta(name, channels=3, size=32, classes=10, **config):
    return network_on_meta(NetworkConfig(name=name, **config), channels, size, classes)


def numbers(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_size_gives_logits_or_a_reason(name, size, channels):
    if (name, size) in REFUSED or (name, size, channels) == ("vgg11", 28, 3):
        with pytest.raises(ValueError, match=f"{name}.*{size}-px images.*{REFUSED.get((name, size), '32 px do')}"):
            meta(name, channels, size)
        return
    config = NetworkConfig(name=name, width=None if name == "lenet" else 4)
    network = build_network(config, channels, size, 7, generator(0, "test", "net"))
    images = torch.zeros(2, channels, size, size)
    assert network(images).shape == (2, 7)
    assert network.features(images).shape == (2, network.classifier.in_features)
    assert network.block_features(images)[-1].flatten(1).shape == network.features(images).shape


def later_stages(*sides):
    """The maps of ResNet18 after its first stage: two blocks a stage, and the mean over pixels."""
    return [(c, s, s) for c, s in zip((128, 256, 512), sides, strict=True) for _ in range(2)] + [(512, 1, 1)]


@pytest.mark.parametrize(
    ("name", "channels", "size", "maps"),
    [
        ("mlp", 3, 32, [(128,), (128,)]),
        ("lenet", 3, 32, [(6, 14, 14), (16, 5, 5), (120,), (84,)]),
        ("lenet", 1, 28, [(6, 14, 14), (16, 5, 5), (120,), (84,)]),
        ("lenet", 1, 16, [(6, 6, 6), (16, 1, 1), (120,), (84,)]),
        ("alexnet", 3, 32, [(128, 16, 16), (192, 8, 8), (256, 8, 8), (192, 8, 8), (192, 4, 4)]),
        ("alexnet", 1, 28, [(128, 16, 16), (192, 8, 8), (256, 8, 8), (192, 8, 8), (192, 4, 4)]),
        (
            "vgg11",
            1,
            28,
            [(64, 16, 16), (128, 8, 8), (256, 8, 8), (256, 4, 4), *[(512, side, side) for side in (4, 2, 2, 1)]],
        ),
        ("resnet18", 3, 32, [(64, 32, 32)] * 3 + later_stages(16, 8, 4)),
        ("resnet18", 1, 28, [(64, 28, 28)] * 3 + later_stages(14, 7, 4)),
    ],
)
def test_the_maps_of_the_definition(name, channels, size, maps):
    network = build_network(NetworkConfig(name=name), channels, size, 10, generator(0, "test", "net"))
    found = network.block_features(torch.zeros(1, channels, size, size))
    assert [tuple(block.shape[1:]) for block in found] == maps


def convolution(before, after, kernel, bias=True):
    return before * after * kernel**2 + after * bias


MLP_32 = 3072 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
LENET = (6 * 16 * 25 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
ALEXNET = sum(
    convolution(*layer) for layer in [(3, 128, 5), (128, 192, 5), (192, 256, 3), (256, 192, 3), (192, 192, 3)]
)
VGG = sum(
    convolution(a, b, 3)
    for a, b in [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
)


@pytest.mark.parametrize(
    ("name", "channels", "size", "norm", "count", "known"),
    [
        ("mlp", 3, 32, "none", MLP_32, 411_146),
        ("mlp", 1, 28, "none", MLP_32 - (3072 - 784) * 128, 118_282),
        ("lenet", 3, 32, "none", LENET + 3 * 6 * 25 + 6, 62_006),
        ("lenet", 1, 28, "none", LENET + 6 * 25 + 6, 61_706),
        ("alexnet", 3, 32, "none", ALEXNET + 192 * 16 * 10 + 10, 1_872_202),
        ("alexnet", 3, 32, "instance", ALEXNET + 192 * 16 * 10 + 10 + 2 * 960, 1_874_122),
        ("alexnet", 3, 64, "none", ALEXNET + 192 * 64 * 10 + 10, 1_964_362),
        ("vgg11", 3, 32, "none", VGG + 5130, 9_225_610),
        ("vgg11", 3, 32, "instance", VGG + 5130 + 2 * (64 + 128 + 2 * 256 + 4 * 512), 9_231_114),
        ("vgg11", 3, 64, "instance", VGG + 20490 + 2 * 2752, 9_246_474),
        ("resnet18", 3, 32, "instance", 11_173_962, 11_173_962),
        ("resnet18", 3, 128, "batch", 11_173_962, 11_173_962),
        ("resnet18", 3, 32, "none", 11_173_962 - 2 * (5 * 64 + 5 * 128 + 5 * 256 + 5 * 512), 11_164_362),
    ],
)
def test_parameters_are_those_counted_by_hand(name, channels, size, norm, count, known):
    assert count == known
    assert numbers(meta(name, channels, size, norm=norm)) == count


def test_resnet18_counted_by_hand():
    """3×3 convolutions without bias, norms of 2 numbers a channel, and three 1×1 shortcuts."""
    total, before = 3 * 64 * 9 + 2 * 64, 64
    for after in (64, 128, 256, 512):
        total += before * after * 9 + 3 * after * after * 9 + 4 * 2 * after
        total += 0 if before == after else before * after + 2 * after
        before = after
    assert total + 512 * 10 + 10 == 11_173_962 == numbers(meta("resnet18"))


@pytest.mark.parametrize("name", ["mlp", "alexnet", "vgg11", "resnet18"])
def test_the_width_scales_every_layer_but_the_ends(name):
    own = ARCHITECTURES[name].width
    wide, narrow = meta(name), meta(name, width=own // 4)
    for a, b in zip(wide.parameters(), narrow.parameters(), strict=True):
        assert all(n in (m, m // 4) for m, n in zip(a.shape, b.shape, strict=True))
    assert wide.classifier.in_features == 4 * narrow.classifier.in_features


@pytest.mark.parametrize(("norm", "kind"), [("instance", nn.GroupNorm), ("batch", nn.BatchNorm2d), ("none", None)])
@pytest.mark.parametrize(("name", "norms"), [("alexnet", 5), ("vgg11", 8), ("resnet18", 20)])
def test_norms(name, norms, norm, kind):
    network = meta(name, norm=norm)
    found = [module for module in network.modules() if isinstance(module, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(found) == (norms if kind else 0)
    for module in found:
        assert isinstance(module, kind)
        assert module.affine and (norm == "batch" or module.num_groups == module.num_channels)


def build(name, index=0, **config):
    return build_network(NetworkConfig(name=name, **config), 3, 32, 10, generator(0, "test", "net", index))


SMALL = {"mlp": {"width": 8}, "lenet": {}, "alexnet": {"width": 8}, "vgg11": {"width": 4}, "resnet18": {"width": 4}}


@pytest.mark.parametrize("name", SMALL)
def test_the_generator_alone_decides_the_initial_values(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(name, **SMALL[name])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = build(name, **SMALL[name]), build(name, index=1, **SMALL[name])
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for module, different in zip(first.modules(), other.modules(), strict=True):
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.5 * bound < module.weight.abs().max() <= bound
            assert not torch.equal(module.weight, different.weight)
            assert module.bias is None or 0 < module.bias.abs().max() <= bound
        elif isinstance(module, nn.GroupNorm):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all())


@pytest.fixture(scope="module")
def digits():
    """resolution -> digits at that resolution."""
    known = {}
    return lambda size: known.setdefault(size, load_dataset(DataConfig(resolution=size)))


LEARNS = [
    ("convnet", 8, {"width": 16}, 3, 0.05),
    ("mlp", 8, {"width": 64}, 3, 0.05),
    ("lenet", 16, {}, 6, 0.05),
    ("alexnet", 8, {"width": 16, "norm": "batch"}, 2, 0.05),
    ("vgg11", 32, {"width": 8, "norm": "batch"}, 2, 0.05),
    ("resnet18", 8, {"width": 4, "norm": "batch"}, 4, 0.05),
    ("resnet18", 16, {"width": 8, "norm": "instance"}, 3, 0.05),
]


@pytest.mark.parametrize(("name", "size", "network", "epochs", "rate"), LEARNS, ids=lambda value: str(value))
def test_it_learns_digits_and_is_calibrated_by_masking(name, size, network, epochs, rate, digits):
    data = digits(size)
    config = TrainConfig.model_validate(
        {"epochs": epochs, "lr": rate, "batch_size": 32, "weight_decay": 0.0, "augment": "none", "networks": 1}
        | {"network": {"name": name, **network}}
    )
    images, labels = data.train.images[:600], data.train.labels[:600]
    training = DDNNTraining(images, labels, config, num_classes=10, flip=False, seed=0)
    for _ in range(epochs):
        training.step()
    predicted = predict_logits(training.networks[0], data.val.images).argmax(1)
    assert float((predicted == data.val.labels).float().mean()) > 0.75
    for unit in ("element", "patch"):
        fit = masked_temperature_scaling(training.networks[0], images[:50], labels[:50], 0.5, unit=unit)
        assert 1.0 <= fit.temperature <= 20.0 and fit.masked_accuracy is not None
