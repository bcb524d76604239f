"""LeNet-5 with ReLU and max pooling, as cross-architecture evaluation uses it."""

from __future__ import annotations

from torch import nn

from ddcal.config.networks import lenet_side
from ddcal.networks.base import Network


class LeNet(Network):
    """Two 5×5 convolutions (6 and 16 channels), each with ReLU and 2×2 max pooling, then layers of 120 and 84 units.

    After LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998). No padding, but 2 for 28-px
    grey images, so that these and 32-px images both end on 16 maps of 5×5. No norm.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels; at least 16.
        num_classes: Width of the logits.
    """

    def __init__(self, channels: int, image_size: int, num_classes: int) -> None:
        super().__init__()
        padding = 2 if (channels, image_size) == (1, 28) else 0
        numbers = 16 * lenet_side(channels, image_size) ** 2
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Sequential(nn.Flatten(), nn.Linear(numbers, 120), nn.ReLU()),
                nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
            ]
        )
        self.classifier = nn.Linear(84, num_classes)
