"""Several smaller images in one stored image, each enlarged to full size: the multi-formation decoder of IDC.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (ICML 2022): uniform multi-formation.
A stored image (S, S) is cut into f × f tiles, as equal as f divides S, and each is enlarged bilinearly to (S, S). That
is linear: with W_i (S, S), which reads the rows of the i-th strip alone, the image of tile (i, j) is W_i X W_jᵀ. Matrix
products give the same bits every time on a GPU, where the backward of `torch.nn.functional.interpolate` does not.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def strips(size: int, factor: int) -> list[tuple[int, int]]:
    """Return where each of ``factor`` strips of ``size`` pixels begins and ends; their widths differ by 1 at most."""
    return list(pairwise(size * index // factor for index in range(factor + 1)))


def enlarging_weights(size: int, side: int) -> Tensor:
    """Return W (S, s), float64, with W·b·Wᵀ a base b (s, s) enlarged bilinearly, corners not aligned.

    Args:
        size: S, in pixels.
        side: s, in pixels.
    """
    positions = ((torch.arange(size, dtype=torch.float64) + 0.5) * side / size - 0.5).clamp(0, side - 1)
    return (1.0 - (positions[:, None] - torch.arange(side)).abs()).clamp_min(0.0)


def tile_weights(size: int, factor: int) -> Tensor:
    """Return W (f, S, S), of the default type: W_i takes the i-th strip of S pixels to S pixels, bilinearly.

    Args:
        size: S, in pixels.
        factor: f, at most S.
    """
    weights = torch.zeros(factor, size, size, dtype=torch.float64)
    for index, (begin, end) in enumerate(strips(size, factor)):
        weights[index, :, begin:end] = enlarging_weights(size, end - begin)
    return weights.to(torch.get_default_dtype())


def decode(stored: Tensor, weights: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Return the images (n·f², C, S, S) that stored ones hold: f² of each, its tiles row by row.

    Args:
        stored: (n, C, S, S).
        weights: `tile_weights`.
        chosen: Which of them, int64 (m,); None returns all.

    Returns:
        Differentiable in ``stored``.
    """
    factor = len(weights)
    if chosen is None:
        rows = torch.einsum("iab,nkbc->nikac", weights, stored)
        return torch.einsum("jdc,nikac->nijkad", weights, rows).flatten(0, 2)
    image, tile = chosen // factor**2, chosen % factor**2
    return weights[tile // factor][:, None] @ stored[image] @ weights[tile % factor].mT[:, None]


def packed(images: Tensor, factor: int) -> Tensor:
    """Return stored images that hold f² given ones each, scaled down to tiles by the mean over areas.

    Args:
        images: (n·f², C, S, S), in the order of `decode`.
        factor: f.

    Returns:
        (n, C, S, S).
    """
    groups = images.unflatten(0, (-1, factor, factor))
    size = images.shape[-1]
    stored = images.new_empty(len(groups), *images.shape[1:])
    for i, (top, bottom) in enumerate(strips(size, factor)):
        for j, (left, right) in enumerate(strips(size, factor)):
            stored[:, :, top:bottom, left:right] = adaptive_avg_pool2d(groups[:, i, j], (bottom - top, right - left))
    return stored
