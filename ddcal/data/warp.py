"""Affine warps of images, in the form that fits the device: the numbers are those of `torch.nn.functional.grid_sample`.

Its backward adds into pixels in any order on a GPU. There the same sum is written as four weighted reads by index,
whose backward sorts before it adds: the same bits every time. On a CPU that would take 5 to 30 times as long for other
last bits, so `grid_sample` it stays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ddcal import precision


def warp(images: Tensor, matrices: Tensor, *, by_index: bool | None = None) -> Tensor:
    """Sample images bilinearly at affinely moved positions, zeros outside; differentiable with respect to the images.

    Args:
        images: float (N, C, S, S).
        matrices: (1 or N, 2, 3), as for `torch.nn.functional.affine_grid`; one is that of all images.
        by_index: Which form; None takes the one of the images' device. The two differ by the rounding of positions:
            by 3e-5 at most, measured on images of standard normal values of side 32.
    """
    if precision.adds_in_any_order(images.device) if by_index is None else by_index:
        return _read_by_index(images, matrices.to(images.dtype))
    # One matrix: images become channels, so that positions are worked out once.
    stacked = images.reshape(1, -1, *images.shape[2:]) if len(matrices) == 1 else images
    grid = F.affine_grid(matrices.to(images.dtype), list(stacked.shape), align_corners=False)
    warped = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.reshape(images.shape)


def _read_by_index(images: Tensor, matrices: Tensor) -> Tensor:
    """The same in few operations, since each costs a GPU's host more than the GPU; x comes before y in what is held."""
    size = images.shape[2]
    centred = torch.arange(size, device=images.device) - (size - 1) / 2.0  # pixels from the middle of the image
    right, down, shift = matrices[:, :, None, None].unbind(4)  # each (1 or N, 2, 1, 1)
    middle = shift * (size / 2.0) + (size - 1) / 2.0
    positions = torch.addcmul(torch.addcmul(middle, right, centred), down, centred[:, None])
    first = positions.floor()
    corners = torch.stack([first, first + 1.0], dim=2).flatten(3)  # (1 or N, 2, 2, S²): the pixels on both sides
    held = corners.clamp(0, size - 1)
    weights = (1.0 - (positions.flatten(2)[:, :, None] - corners).abs()) * (held == corners)  # 0 outside
    four = weights[:, 1, :, None] * weights[:, 0, None]  # (1 or N, 2, 2, S²)
    places = torch.add(held[:, 0, None], held[:, 1, :, None], alpha=size).long()
    flat = images.flatten(2)
    if len(matrices) == 1:
        read = flat[:, :, places[0]]
    else:
        every = torch.arange(len(images), device=images.device)[:, None, None, None]
        read = flat[every, :, places].movedim(4, 1)
    return (read * four[:, None]).sum((2, 3)).view_as(images)
