"""The ConvNet of the distillation literature (method.md, ConvNet)."""

from __future__ import annotations

from torch import nn

from ddcal.config.networks import padded_side
from ddcal.networks.base import Network, first_padding, norm_layer
from ddcal.networks.block import ConvBlock
from ddcal.networks.pooling import HalvingPool


class ConvNet(Network):
    """Blocks of 3×3 convolution, norm, ReLU and 2×2 average pooling, then one linear layer.

    Use `build_network` to get one with initialised weights; the constructor alone leaves PyTorch's own, and does not
    check that the poolings leave something of the image.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Width of the logits.
        width: Channels of every block.
        depth: Number of blocks.
        norm: As `norm_layer`.
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
        padding = first_padding(channels, image_size, 3)
        blocks = []
        for index in range(depth):
            convolution = nn.Conv2d(width if index else channels, width, 3, padding=1 if index else padding)
            blocks.append(ConvBlock(convolution, norm_layer(norm, width), nn.ReLU(), HalvingPool()))
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(width * (padded_side(channels, image_size) >> depth) ** 2, num_classes)
