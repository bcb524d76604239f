"""AlexNet in the small-image form of cross-architecture evaluation."""

from __future__ import annotations

from torch import nn

from ddcal.config.networks import padded_side
from ddcal.networks.base import Network, first_padding, norm_layer


class AlexNet(Network):
    """Five convolutions (two of 5×5, three of 3×3) with 128, 192, 256, 192, 192 channels, then one linear layer.

    After Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012), with
    stride 1, a norm and ReLU after each convolution, and 2×2 max pooling after the first, second and fifth.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels; at least 8.
        num_classes: Width of the logits.
        width: Channels of the first convolution; the others keep their ratio to it.
        norm: As `norm_layer`.
    """

    def __init__(
        self, channels: int, image_size: int, num_classes: int, *, width: int = 128, norm: str = "instance"
    ) -> None:
        super().__init__()
        wider, widest = 3 * width // 2, 2 * width
        blocks: list[nn.Module] = []
        before = channels
        for after, kernel, pooled in (
            (width, 5, True),
            (wider, 5, True),
            (widest, 3, False),
            (wider, 3, False),
            (wider, 3, True),
        ):
            padding = kernel // 2 if blocks else first_padding(channels, image_size, kernel)
            layers = [nn.Conv2d(before, after, kernel, padding=padding), norm_layer(norm, after), nn.ReLU()]
            blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pooled else [])))
            before = after
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(wider * (padded_side(channels, image_size) >> 3) ** 2, num_classes)
