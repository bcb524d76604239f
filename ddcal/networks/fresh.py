"""A network that is initialised again and again: built once, its values drawn on the CPU and moved in one buffer."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ddcal.config import NetworkConfig
from ddcal.moving import move_together
from ddcal.networks.base import Network
from ddcal.networks.build import give_memory, initialise, network_on_meta


class FreshNetworks:
    """Newly initialised networks, one after the other in the same memory: each ends the one before.

    A distillation takes one for every iteration. `draw` gives the values of `build_network`, without building the
    modules anew.
    """

    def __init__(
        self, config: NetworkConfig, channels: int, image_size: int, num_classes: int, device: torch.device
    ) -> None:
        """Build the network.

        Args:
            config: Name, width, depth (None: `default_depth`) and norm.
            channels: Channels of the images.
            image_size: Height and width of the images, in pixels.
            num_classes: Width of the logits.
            device: Where it is to compute.

        Raises:
            ValueError: as `network_on_meta`.
        """
        empty = network_on_meta(config, channels, image_size, num_classes)
        self._drawn = copy.deepcopy(empty)
        give_memory(self._drawn, torch.device("cpu"))
        self._placed = self._drawn if device.type == "cpu" else empty  # `_place` gives it values
        modules = list(empty.modules())
        self._parameters = [(one, name) for one in modules for name, _ in one.named_parameters(recurse=False)]
        self._buffers = [(one, name) for one in modules for name, _ in one.named_buffers(recurse=False)]
        self._device = device

    def draw(self, generator: torch.Generator) -> Network:
        """Initialise the network from a CPU generator and return it; the same object each time."""
        initialise(self._drawn, generator)
        if self._placed is not self._drawn:
            self._place()
        return self._placed

    def _place(self) -> None:
        """Give the network on the device the values drawn; its parameters become views of one buffer."""
        moved = move_together([one.detach() for one in self._drawn.parameters()], self._device)
        for (module, name), value in zip(self._parameters, moved, strict=True):
            setattr(module, name, nn.Parameter(value))
        places = list(zip(self._buffers, self._drawn.buffers(), strict=True))
        for dtype in {drawn.dtype for _, drawn in places}:  # running statistics of batch norms, and how many there were
            kept = [(place, drawn) for place, drawn in places if drawn.dtype == dtype]
            buffers = move_together([drawn for _, drawn in kept], self._device)
            for ((module, name), _), value in zip(kept, buffers, strict=True):
                setattr(module, name, value)
