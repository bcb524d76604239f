"""The multilayer perceptron of cross-architecture evaluation."""

from __future__ import annotations

from torch import nn

from ddcal.networks.base import Network


class MLP(Network):
    """Two hidden layers of ReLU units over the flattened image, then one linear layer; no norm.

    Args:
        channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Width of the logits.
        width: Units of each hidden layer.
    """

    def __init__(self, channels: int, image_size: int, num_classes: int, *, width: int = 128) -> None:
        super().__init__()
        first = nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, width), nn.ReLU())
        self.blocks = nn.ModuleList([first, nn.Sequential(nn.Linear(width, width), nn.ReLU())])
        self.classifier = nn.Linear(width, num_classes)
