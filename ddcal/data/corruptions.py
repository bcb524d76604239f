"""Corruptions of pictures at five strengths, to see whether a network and its calibration hold where images change.

Four of those of Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations" (ICLR 2019), which can be made for pictures of any size. Noise, contrast and, up to 32 px, blur have the
parameters of their CIFAR-10-C; pixelate is coarser, as its first strengths change nothing of pictures of 8 px.

All are computed on the CPU, image by image: the same bits whatever the device, the threads and the batches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (1, 2, 3, 4, 5)

PARAMETERS: dict[str, tuple[float, ...]] = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "pixelate": (7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8),
}
"""For each strength: the standard deviation of Gaussian noise; that of a Gaussian blur in pixels of a picture of up to
`BLURRED_SIDE`, and in proportion more of a larger one; the share of the contrast that is left; the share of the rows
and columns that is left."""

BLURRED_SIDE = 32
TRUNCATE = 4.0
"""Standard deviations at which the Gaussian of a blur is cut off."""


def corrupted(images: Tensor, corruption: str, strength: int, generator: torch.Generator) -> Tensor:
    """Return corrupted pictures, float32 (N, C, S, S) in [0, 1] on the CPU.

    Args:
        images: float32 (N, C, S, S) in [0, 1], on the CPU.
        corruption: One of `PARAMETERS`.
        strength: 1 to 5.
        generator: Noise is drawn from it, one image after the other: images may be given in several batches. The other
            corruptions draw nothing.

    Raises:
        ValueError: if there is no such corruption or strength.
    """
    if corruption not in PARAMETERS:
        raise ValueError(f"corruption is {corruption!r}; it must be one of {', '.join(PARAMETERS)}")
    if strength not in STRENGTHS:
        raise ValueError(f"strength is {strength!r}; it must be 1 to {STRENGTHS[-1]}")
    parameter = PARAMETERS[corruption][strength - 1]
    if corruption == "noise":
        return _noisy(images, parameter, generator)
    if corruption == "blur":
        return _blurred(images, parameter * max(1.0, images.shape[-1] / BLURRED_SIDE))
    if corruption == "contrast":
        means = images.double().mean((2, 3), keepdim=True)
        return (means + parameter * (images.double() - means)).float().clamp(0.0, 1.0)
    return _pixelated(images, parameter)


def _noisy(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Return images with noise of their own each: drawn together, it would depend on how many are given at once."""
    noise = torch.empty_like(images)
    for row in noise:
        row.copy_(torch.randn(row.shape, generator=generator))
    return (images + deviation * noise).clamp(0.0, 1.0)


def _blurred(images: Tensor, deviation: float) -> Tensor:
    """Return images convolved with a sampled Gaussian, whose sum is 1; beyond its edge an image goes on as its edge."""
    radius = int(TRUNCATE * deviation + 0.5)
    distances = torch.arange(-radius, radius + 1, dtype=torch.float64)
    gaussian = torch.exp(-0.5 * (distances / deviation).square())
    weights: list[float] = (gaussian / gaussian.sum()).tolist()
    blurred = images
    for dim, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, side = F.pad(blurred, padding, mode="replicate"), images.shape[dim]
        # A sum of shifted images, and no matrix product, whose bits depend on how many images there are.
        blurred = sum(
            (weight * padded.narrow(dim, shift, side) for shift, weight in enumerate(weights)),
            torch.zeros_like(images),
        )
    return blurred.clamp(0.0, 1.0)


def _pixelated(images: Tensor, share: float) -> Tensor:
    """Return images of which a share of the rows and columns is left: resized by areas, there and back."""
    side = images.shape[-1]
    blocks = max(1, round(share * side))
    there_and_back = _area_weights(side, blocks) @ _area_weights(blocks, side)
    for dim in (2, 3):
        images = torch.stack([_weighted(images, dim, row) for row in there_and_back.tolist()], dim)
    return images.clamp(0.0, 1.0)


def _area_weights(into: int, count: int) -> Tensor:
    """Return how much of each of ``count`` equal parts of a line is in each of ``into``, float64; rows sum to 1."""
    edges, parts = (torch.arange(number + 1, dtype=torch.float64) / number for number in (into, count))
    above = torch.maximum(edges[:-1, None], parts[:-1])
    return (torch.minimum(edges[1:, None], parts[1:]) - above).clamp(min=0.0) * into


def _weighted(images: Tensor, dim: int, weights: list[float]) -> Tensor:
    total = torch.zeros_like(images.select(dim, 0))
    for place, weight in enumerate(weights):
        if weight:
            total += weight * images.select(dim, place)
    return total
