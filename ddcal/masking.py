"""Random masks over images: the one function behind MDT (masked distillation) and MTS (masked temperature scaling)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MaskUnit = Literal["element", "pixel", "patch"]
MASK_UNITS = ("element", "pixel", "patch")
PATCH_SIZE = 4
"""Side of a patch of ``unit="patch"``, in pixels; patches at the right and lower edge may be smaller."""


def random_mask(
    shape: tuple[int, ...] | torch.Size, ratio: float, generator: torch.Generator, unit: MaskUnit = "element"
) -> Tensor:
    """Draw a keep-mask: True where u >= ratio, with u uniform in [0, 1) (method.md, Mask).

    Args:
        shape: (N, C, H, W) of the images.
        ratio: Expected share of masked units, in [0, 1]; 0 keeps everything, 1 nothing.
        generator: Source of u; the mask is made on its device.
        unit: What one u decides over: an ``element`` (every channel on its own), a ``pixel`` (all its channels), or a
            ``patch`` of 4×4 pixels (all their channels).

    Returns:
        bool (N, C, H, W), contiguous for ``element``, a broadcast view over the channels otherwise.

    Raises:
        ValueError: if ratio is outside [0, 1] or NaN, the unit is unknown, or shape is not (N, C, H, W).
    """
    _check(shape, ratio, unit)
    count, channels, height, width = shape
    if unit == "element":
        drawn = (count, channels, height, width)
    elif unit == "pixel":
        drawn = (count, 1, height, width)
    else:
        drawn = (count, 1, -(-height // PATCH_SIZE), -(-width // PATCH_SIZE))
    keep = torch.rand(drawn, generator=generator, device=generator.device) >= ratio
    if unit == "patch":
        keep = keep.repeat_interleave(PATCH_SIZE, dim=2).repeat_interleave(PATCH_SIZE, dim=3)[:, :, :height, :width]
    return keep.expand(count, channels, height, width)


def mask_images(images: Tensor, ratio: float, generator: torch.Generator, unit: MaskUnit = "element") -> Tensor:
    """Return the images with masked elements set to 0, without rescaling; gradients flow where elements are kept.

    At ratio 0 the very same tensor comes back and nothing is drawn from the generator.

    Args:
        images: float (N, C, H, W) in network-input space, on any device.
        ratio: Expected share of masked units, in [0, 1].
        generator: Source of the mask, on any device; the mask is moved to the images.
        unit: As in `random_mask`.

    Raises:
        ValueError: as `random_mask`.
    """
    _check(images.shape, ratio, unit)
    if ratio == 0.0:
        return images
    keep = random_mask(images.shape, ratio, generator, unit)
    return images.masked_fill(~keep.to(images.device), 0.0)


def _check(shape: tuple[int, ...] | torch.Size, ratio: float, unit: str) -> None:
    if not 0.0 <= ratio <= 1.0:  # a NaN fails both comparisons
        raise ValueError(f"mask ratio is {ratio}; it must be in [0, 1]")
    if unit not in MASK_UNITS:
        raise ValueError(f"mask unit is {unit!r}; it must be one of {', '.join(MASK_UNITS)}")
    if len(shape) != 4:
        raise ValueError(f"mask shape is {tuple(shape)}; it must be (N, C, H, W)")
