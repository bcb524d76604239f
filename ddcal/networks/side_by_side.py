"""Copies of a ConvNet side by side as one network of grouped convolutions: few large operations for many small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm

from ddcal.networks.base import Network
from ddcal.networks.convnet import ConvNet
from ddcal.networks.norm import InstanceNorm, instance_norm


def goes_side_by_side(network: nn.Module) -> bool:
    """Return whether copies of the network can go side by side: a ConvNet whose norm looks at one map alone.

    One that somebody has made another of (other blocks, another forward pass) does not.
    """
    if not isinstance(network, ConvNet):
        return False
    changed = type(network).forward is not Network.forward or type(network).features is not Network.features
    return not changed and network.classifier.bias is not None and all(map(_goes, network.blocks))


def _goes(block: nn.Module) -> bool:
    if not isinstance(block, nn.Sequential) or len(block) != 4 or not isinstance(block[0], nn.Conv2d):
        return False
    convolution, norm, *rest = block
    form = (convolution.stride, convolution.dilation, convolution.groups, convolution.padding_mode)
    plain = form == ((1, 1), (1, 1), 1, "zeros") and convolution.bias is not None
    learns_more = any(next(part.parameters(), None) is not None for part in rest)
    return plain and not learns_more and isinstance(norm, InstanceNorm | nn.Identity)


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
    rows = [one.detach() for one in network.parameters() if one.ndim == 1]
    return _logits(network, images, iter(weights), (one.repeat(len(images)) for one in rows[:-1]), rows[-1])


def logits_of_each(network: Network, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return what G networks say of images of their own.

    Args:
        network: One of them, for which `goes_side_by_side`.
        images: float (G, N, C, H, W).
        parameters: One (G, …) for each parameter of a network, in their order.

    Returns:
        Logits (G, N, K), differentiable in images and parameters.
    """
    weights = iter([one for one in parameters if one.ndim > 2])
    rows = [one for one in parameters if one.ndim == 2]
    return _logits(network, images, weights, (one.flatten() for one in rows[:-1]), rows[-1][:, None])


def stack_parameters(networks: Sequence[Network]) -> list[Tensor]:
    """Return the parameters of G networks of one form as one (G, …) each; theirs become views of them."""
    stacked = []
    for of_each in zip(*(list(network.named_parameters()) for network in networks), strict=True):
        together = torch.stack([parameter.detach() for _, parameter in of_each])
        for network, (name, _), own in zip(networks, of_each, together, strict=True):
            module, _, last = name.rpartition(".")
            setattr(network.get_submodule(module), last, nn.Parameter(own))
        stacked.append(together.requires_grad_())
    return stacked


def _logits(
    network: Network, images: Tensor, weights: Iterator[Tensor], rows: Iterator[Tensor], last: Tensor
) -> Tensor:
    """Return the logits (G, N, K) of images (G, N, C, H, W).

    Args:
        network: Whose form it is.
        images: Of each copy its own.
        weights: (G, O, …) each, of the convolutions and of the classifier.
        rows: (G · O,) each: of every block the convolution's biases and the norm's weights and biases.
        last: The classifier's biases, (K,) or (G, 1, K).
    """
    copies, count = images.shape[:2]
    maps = images.transpose(0, 1).flatten(1, 2)
    for block in network.blocks:
        convolution, norm, activation, pool = _parts(block)
        kernel = next(weights).flatten(0, 1)
        maps = conv2d(maps, kernel, next(rows), padding=convolution.padding, groups=copies)
        if isinstance(norm, InstanceNorm):
            gamma, beta = next(rows), next(rows)
            if norm.once:
                maps = group_norm(maps, maps.shape[1], gamma, beta, norm.eps)
            else:
                maps = instance_norm(maps, gamma, beta, norm.eps)
        maps = pool(activation(maps))
    features = maps.reshape(count, copies, -1).transpose(0, 1)
    return torch.baddbmm(last, features, next(weights).transpose(1, 2))


def _parts(block: nn.Module) -> tuple[nn.Conv2d, nn.Module, nn.Module, nn.Module]:
    """Return a block's convolution, norm, activation and pooling."""
    assert isinstance(block, nn.Sequential)
    convolution, norm, activation, pool = block
    assert isinstance(convolution, nn.Conv2d)
    return convolution, norm, activation, pool
