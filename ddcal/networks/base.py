"""What all networks are: blocks one after another, and a linear classifier on the flattened output of the last."""

from __future__ import annotations

from torch import Tensor, nn

from ddcal.config.networks import padded_side
from ddcal.networks.norm import InstanceNorm


class Network(nn.Module):
    """Blocks and a linear classifier; the base of every network.

    Attributes:
        blocks: Applied one after another.
        classifier: Takes the last block's output, flattened.
    """

    blocks: nn.ModuleList
    classifier: nn.Linear

    def block_features(self, images: Tensor) -> list[Tensor]:
        """Return the output of every block for images (N, C, H, W): maps (N, channels, side, side) or vectors (N, F).

        A ConvNet's are (N, width, side, side), with the side halved by each block.
        """
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


def norm_layer(kind: str, width: int) -> nn.Module:
    """Return a norm over maps of ``width`` channels.

    Args:
        kind: ``instance`` (one GroupNorm group a channel, affine), ``batch`` (affine) or ``none``.
        width: Channels.

    Raises:
        ValueError: for another kind.
    """
    if kind == "instance":
        return InstanceNorm(width)
    if kind == "batch":
        return nn.BatchNorm2d(width)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"network.norm is {kind!r}; it must be one of instance, batch, none")


def first_padding(channels: int, image_size: int, kernel: int) -> int:
    """Return the first convolution's padding: it keeps the side of images, or makes 28-px grey ones 32 px.

    Args:
        channels: Channels of the images.
        image_size: Their side, in pixels.
        kernel: Side of the convolution, odd.
    """
    return (kernel - 1 + padded_side(channels, image_size) - image_size) // 2
