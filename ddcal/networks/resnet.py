"""ResNet18 in the small-image form of cross-architecture evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddcal.networks.base import Network, norm_layer

STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Of each stage of two residual blocks: its channels as a multiple of the first one's, and its first stride."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with norms beside a shortcut, which is a 1×1 convolution with norm where sizes change.

    Args:
        before: Channels that come in.
        after: Channels that go out.
        stride: Of the first convolution and of the shortcut.
        norm: As `norm_layer`.
    """

    def __init__(self, before: int, after: int, stride: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            norm_layer(norm, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            norm_layer(norm, after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, norm_layer(norm, after))

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (N, after, ⌈side/stride⌉, ⌈side/stride⌉) of maps (N, before, side, side)."""
        return torch.relu(self.body(maps) + self.shortcut(maps))


class ResNet18(Network):
    """A 3×3 convolution with norm and ReLU, eight residual blocks in four stages, and the mean over all pixels.

    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), without the first stride and the
    first pooling, as on CIFAR. Takes images of any size, and 28-px grey ones without padding.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels; of no effect on the layers.
        num_classes: Width of the logits.
        width: Channels of the first convolution; the stages keep their ratio to it.
        norm: As `norm_layer`; ``instance`` needs images of at least 9 px.
    """

    def __init__(
        self, channels: int, image_size: int, num_classes: int, *, width: int = 64, norm: str = "instance"
    ) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), norm_layer(norm, width), nn.ReLU())
        blocks: list[nn.Module] = [first]
        before = width
        for multiple, stride in STAGES:
            after = multiple * width
            blocks += [ResidualBlock(before, after, stride, norm), ResidualBlock(after, after, 1, norm)]
            before = after
        self.blocks = nn.ModuleList([*blocks, nn.AdaptiveAvgPool2d(1)])
        self.classifier = nn.Linear(before, num_classes)
