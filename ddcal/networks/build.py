"""Networks from their configs, initialised from an explicit generator."""

from __future__ import annotations

import math

import torch
from torch import nn

from ddcal.config import NetworkConfig
from ddcal.config.networks import default_depth, size_problem
from ddcal.networks.alexnet import AlexNet
from ddcal.networks.base import Network
from ddcal.networks.convnet import ConvNet
from ddcal.networks.lenet import LeNet
from ddcal.networks.mlp import MLP
from ddcal.networks.resnet import ResNet18
from ddcal.networks.vgg import VGG11


def network_on_meta(config: NetworkConfig, channels: int, image_size: int, num_classes: int) -> Network:
    """Return a network on the meta device: its shapes, without memory and without values.

    Args:
        config: Name, width, depth (None: `default_depth`) and norm.
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Width of the logits.

    Raises:
        ValueError: if channels, image_size or num_classes is below 1, or the network cannot take such images.
    """
    for name, value in (("channels", channels), ("image_size", image_size), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if why := size_problem(config, channels, image_size):
        raise ValueError(why)
    shape = (channels, image_size, num_classes)
    with torch.device("meta"):
        if config.name == "lenet":
            return LeNet(*shape)
        assert config.width is not None, "LeNet alone has none"
        if config.name == "mlp":
            return MLP(*shape, width=config.width)
        if config.name == "alexnet":
            return AlexNet(*shape, width=config.width, norm=config.norm)
        if config.name == "vgg11":
            return VGG11(*shape, width=config.width, norm=config.norm)
        if config.name == "resnet18":
            return ResNet18(*shape, width=config.width, norm=config.norm)
        depth = default_depth(image_size) if config.depth is None else config.depth
        return ConvNet(*shape, width=config.width, depth=depth, norm=config.norm)


def build_network(
    config: NetworkConfig, channels: int, image_size: int, num_classes: int, generator: torch.Generator
) -> Network:
    """Build an initialised network on the generator's device.

    Weights and biases follow PyTorch's defaults, uniform in ±1/sqrt(fan_in), but come from ``generator`` alone: the
    global generator is neither read nor advanced. Norms start at weight 1 and bias 0.

    Args:
        config: Name, width, depth (None: `default_depth`) and norm.
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Width of the logits.
        generator: Source of every initial value.

    Raises:
        ValueError: as `network_on_meta`.
    """
    # On the meta device the layers' own initialisation costs nothing and touches no generator.
    network = network_on_meta(config, channels, image_size, num_classes).to_empty(device=generator.device)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
                module.reset_parameters()  # constants only: ones, zeros, fresh running statistics
    return network
