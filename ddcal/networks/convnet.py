"""The ConvNet of the distillation literature (PAPER.md, ConvNet), built from an explicit generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ddcal.config import NetworkConfig

GREY_28_PADDING = 3
"""Padding of the first convolution for 28-px grey images, which makes them 32 px; 1 everywhere else."""


class ConvNet(nn.Module):
    """Blocks of 3×3 convolution, norm, ReLU and 2×2 average pooling, then one linear layer.

    Use `build_network` to get one with initialised weights; the constructor alone leaves PyTorch's own.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Width of the logits.
        width: Channels of every block.
        depth: Number of blocks.
        norm: ``instance`` (one GroupNorm group a channel, affine), ``batch`` or ``none``.

    Raises:
        ValueError: if ``depth`` poolings leave nothing of the image, or norm is unknown.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        num_classes: int,
        *,
        width: int = 128,
        depth: int = 3,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        grey_28 = channels == 1 and image_size == 28
        padding = GREY_28_PADDING if grey_28 else 1
        side = image_size + 2 * (padding - 1)
        if side >> depth < 1:
            raise ValueError(
                f"network.depth is {depth}, but {depth} poolings of 2×2 leave nothing of {image_size}-px images: "
                f"take at most {int(math.log2(side))}"
            )
        blocks = []
        for index in range(depth):
            convolution = nn.Conv2d(width if index else channels, width, 3, padding=1 if index else padding)
            blocks.append(nn.Sequential(convolution, _norm(norm, width), nn.ReLU(), nn.AvgPool2d(2, 2)))
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(width * (side >> depth) ** 2, num_classes)

    def block_features(self, images: Tensor) -> list[Tensor]:
        """Return the output of every block, (N, width, side, side) with the side halved by each, for (N, C, H, W)."""
        outputs = []
        for block in self.blocks:
            images = block(images)
            outputs.append(images)
        return outputs

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened embedding before the classifier, (N, F), for images (N, C, H, W)."""
        for block in self.blocks:
            images = block(images)
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, C, H, W)."""
        return self.classifier(self.features(images))


def default_depth(image_size: int) -> int:
    """Return the depth used where the config gives none: max(2, round(log2(image_size)) − 2).

    That is 2 at 8 and 16 px, 3 at 28 and 32, 4 at 64, 5 at 128 (PAPER.md, ConvNet): blocks end on about 4×4 pixels.
    """
    return max(2, round(math.log2(image_size)) - 2)


def build_network(
    config: NetworkConfig, channels: int, image_size: int, num_classes: int, generator: torch.Generator
) -> ConvNet:
    """Build an initialised ConvNet on the generator's device.

    Weights and biases follow PyTorch's defaults, uniform in ±1/sqrt(fan_in), but come from ``generator`` alone: the
    global generator is neither read nor advanced. Norms start at weight 1 and bias 0.

    Args:
        config: Width, depth (None: `default_depth`) and norm.
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Width of the logits.
        generator: Source of every initial value.

    Raises:
        ValueError: if channels, image_size or num_classes is below 1, or the depth is too large for the images.
    """
    for name, value in (("channels", channels), ("image_size", image_size), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    depth = default_depth(image_size) if config.depth is None else config.depth
    # On the meta device the layers' own initialisation costs nothing and touches no generator.
    with torch.device("meta"):
        network = ConvNet(channels, image_size, num_classes, width=config.width, depth=depth, norm=config.norm)
    network = network.to_empty(device=generator.device)
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


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "instance":
        return nn.GroupNorm(width, width)
    if kind == "batch":
        return nn.BatchNorm2d(width)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"network.norm is {kind!r}; it must be one of instance, batch, none")
