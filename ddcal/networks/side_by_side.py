"""Copies of a ConvNet side by side as one network of grouped convolutions: few large operations for many small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ddcal.networks.base import Network
from ddcal.networks.convnet import ConvNet
from ddcal.networks.norm import InstanceNorm, instance_norm


def goes_side_by_side(network: Network) -> bool:
    """Return whether `logits_side_by_side` knows the network: a ConvNet whose norm looks at one map alone."""
    if not isinstance(network, ConvNet):
        return False
    return all(isinstance(_parts(block)[1], InstanceNorm | nn.Identity) for block in network.blocks)


def first_width(network: Network) -> int:
    """Return the channels of the first block of a network that goes side by side."""
    return _parts(network.blocks[0])[0].out_channels


def logits_side_by_side(network: Network, images: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return what G copies of a network say of images of their own, each with weights of its own.

    Args:
        network: One for which `goes_side_by_side`. Its biases and norms are those of every copy, as constants.
        images: float (G, N, C, H, W).
        weights: One (G, …) for each parameter of the network with more than one dimension, in their order.

    Returns:
        Logits (G, N, K), differentiable in images and weights as often as one likes.
    """
    copies, count = images.shape[:2]
    maps = images.transpose(0, 1).flatten(1, 2)
    for block, kernel in zip(network.blocks, weights, strict=False):
        convolution, norm, activation, pool = _parts(block)
        bias = _repeated(convolution.bias, copies)
        maps = conv2d(maps, kernel.flatten(0, 1), bias, padding=convolution.padding, groups=copies)
        if isinstance(norm, InstanceNorm):
            maps = instance_norm(maps, _repeated(norm.weight, copies), _repeated(norm.bias, copies), norm.eps)
        maps = pool(activation(maps))
    features = maps.reshape(count, copies, -1).transpose(0, 1)
    return torch.baddbmm(network.classifier.bias.detach(), features, weights[-1].transpose(1, 2))


def _parts(block: nn.Module) -> tuple[nn.Conv2d, nn.Module, nn.Module, nn.Module]:
    """Return a block's convolution, norm, activation and pooling."""
    assert isinstance(block, nn.Sequential)
    convolution, norm, activation, pool = block
    assert isinstance(convolution, nn.Conv2d)
    return convolution, norm, activation, pool


def _repeated(parameter: Tensor | None, copies: int) -> Tensor:
    """Return a parameter (C,) once for each copy, (copies · C,), as a constant."""
    assert parameter is not None
    return parameter.detach().repeat(copies)
