"""VGG11 in the small-image form of cross-architecture evaluation."""

from __future__ import annotations

from torch import nn

from ddcal.config.networks import padded_side
from ddcal.networks.base import Network, first_padding, norm_layer

LAYERS = ((1, True), (2, True), (4, False), (4, True), (8, False), (8, True), (8, False), (8, True))
"""Of each convolution: its channels as a multiple of the first one's, and whether pooling follows."""


class VGG11(Network):
    """Eight 3×3 convolutions with norm and ReLU, five 2×2 max poolings, then one linear layer.

    Configuration A of Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR
    2015), with one linear layer on what is left of the image: 512 numbers at 32 px.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels; at least 32, or 28 if they are grey.
        num_classes: Width of the logits.
        width: Channels of the first convolution; the others keep their ratio to it.
        norm: As `norm_layer`.
    """

    def __init__(
        self, channels: int, image_size: int, num_classes: int, *, width: int = 64, norm: str = "instance"
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before = channels
        for multiple, pooled in LAYERS:
            after = multiple * width
            padding = 1 if blocks else first_padding(channels, image_size, 3)
            layers = [nn.Conv2d(before, after, 3, padding=padding), norm_layer(norm, after), nn.ReLU()]
            blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pooled else [])))
            before = after
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(before * (padded_side(channels, image_size) >> 5) ** 2, num_classes)
