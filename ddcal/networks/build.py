"""Networks from their configs, initialised from an explicit generator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ddcal.config import NetworkConfig
from ddcal.config.components import ComponentError, imported_object
from ddcal.config.networks import architecture, default_depth, size_problem
from ddcal.networks.base import Network


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
    spec, shape = architecture(config.name), (channels, image_size, num_classes)
    settings: dict[str, Any] = {}
    if spec.width is not None:
        settings["width"] = config.width
    if len(spec.norms) > 1:
        settings["norm"] = config.norm
    if spec.depth:
        settings["depth"] = default_depth(image_size) if config.depth is None else config.depth
    with torch.device("meta"):
        made = imported_object("network", config.name, spec.builder)(*shape, **settings)
    if not isinstance(made, Network):
        raise ComponentError(
            f"network.name {config.name!r}: {spec.builder} makes a {type(made).__name__}; it must be a "
            "ddcal.networks.Network"
        )
    return made


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
    network = network_on_meta(config, channels, image_size, num_classes)
    give_memory(network, generator.device)
    initialise(network, generator)
    return network


def give_memory(network: nn.Module, device: torch.device) -> None:
    """Move a network from the meta device to another one, in place; its values are whatever lies there.

    `torch.nn.Module.to_empty` does that too, but imports SymPy for it: 0.6 CPU seconds of every process that computes.
    """
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(value, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def initialise(network: Network, generator: torch.Generator) -> None:
    """Give a network the initial values of `build_network`, in place.

    Args:
        network: On the generator's device.
        generator: Source of every initial value.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                bound = 1.0 / math.sqrt(module.weight[0].numel())
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
                module.reset_parameters()  # constants only: ones, zeros, fresh running statistics
