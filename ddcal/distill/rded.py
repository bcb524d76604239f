"""RDED: the crops of real images of which experts are surest, stitched together.

Sun, Shi, Yu, Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm" (CVPR
2024). The labels are classes; those of the paper, which an expert gives, are the ``labels`` stage's. A crop is scored
at the size of the images; the authors' code scores it at the size of its place, in a frame of zeros. Where one crop is
an image both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddcal.distill.coreset import SLACK, Coreset, in_order
from ddcal.networks import predict_logits
from ddcal.seeding import generator

LEAST_AREA = 0.08
"""Crops are squares of at least this share of the image's area, as torchvision's ``RandomResizedCrop``."""

AT_ONCE = 32
"""Candidates whose crops are scored together, at most."""

CROPS_AT_ONCE = 160
"""Crops of these: they are in memory at the size of the images."""


@dataclass(frozen=True)
class Crops:
    """Square crops of images of S pixels a side: int64 tensors of one shape.

    Attributes:
        tops: The first row.
        lefts: The first column.
        sides: Height and width.
    """

    tops: Tensor
    lefts: Tensor
    sides: Tensor

    def at(self, *index: Tensor | slice) -> Crops:
        """Return some of them."""
        return Crops(self.tops[index], self.lefts[index], self.sides[index])


class StitchedCrops(Coreset):
    """The ``rded`` backbone. Crops are of pixels: ZCA or normalisation is undone, and done to what is stitched."""

    def check_count(self, label: int, count: int) -> None:
        """Raise a ValueError if there are not as many images as crops are taken, or no pixels for so many."""
        factor, size = self.factor, self.dataset.image_size
        super().check_count(label, count)
        if count < self.taken:
            raise ValueError(
                f"distill.ipc is {self.config.ipc} with distill.coreset.factor {factor}, which takes crops of "
                f"{self.taken} images of a class, but class {label} of {self.dataset.name} has {count} training images"
            )
        if factor > size:
            raise ValueError(
                f"distill.coreset.factor is {factor} but images of {self.dataset.name} are {size} pixels high: at most "
                "one crop a pixel"
            )
        if self.config.coreset.candidates < self.taken:
            raise ValueError(
                f"distill.coreset.candidates is {self.config.coreset.candidates}, but crops of {self.taken} images of "
                "a class are taken: raise it"
            )

    @property
    def factor(self) -> int:
        """How many crops lie side by side."""
        assert self.config.coreset.factor, "the config must be resolved"
        return self.config.coreset.factor

    @property
    def taken(self) -> int:
        """How many crops of a class are taken, each of another image."""
        return self.config.ipc * self.factor**2

    def chosen(self, label: int) -> Tensor:
        """Return the stitched images of a class: each with one of the ``ipc`` best crops in its first place."""
        indices, size = self.dataset.train.indices_of(label), self.dataset.image_size
        order = torch.randperm(len(indices), generator=generator(self.seed, "distill", "candidates", label))
        candidates = indices[order[: self.config.coreset.candidates].sort().values]
        stream = generator(self.seed, "distill", "crops", label)
        crops = drawn_crops(len(candidates), self.config.coreset.crops, size, stream)
        at_once = max(1, min(AT_ONCE, CROPS_AT_ONCE // self.config.coreset.crops))
        parts = torch.arange(len(candidates)).split(at_once)
        losses = torch.cat([self.losses(candidates[part], crops.at(part), label) for part in parts])
        best = losses.min(1).values
        which = (losses <= best[:, None] * (1.0 + SLACK)).to(torch.uint8).argmax(1)  # the first of equals
        ranked = torch.tensor(in_order(best, self.taken))
        taken, pixels = crops.at(ranked, which[ranked]), self.pixels(candidates[ranked])
        return self.dataset.preprocessing.transform(stitched(pixels, taken, self.config.ipc, self.factor))

    def losses(self, indices: Tensor, crops: Crops, label: int) -> Tensor:
        """Return the mean cross-entropy of the experts on crops of training images, float64 (n, crops)."""
        count, each = crops.sides.shape
        pixels, size = self.pixels(indices), self.dataset.image_size
        flat = Crops(crops.tops.flatten(), crops.lefts.flatten(), crops.sides.flatten())
        inputs = self.dataset.preprocessing.transform(resized(pixels.repeat_interleave(each, 0), flat, size, size))
        rows = [-predict_logits(network, inputs).double().log_softmax(1)[:, label] for network in self.networks]
        return torch.stack(rows).mean(0).view(count, each)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return training images as pixels in [0, 1], float32 (n, C, S, S)."""
        return self.dataset.inverse_transform(self.dataset.train.images[indices])


def drawn_crops(count: int, crops: int, size: int, stream: torch.Generator) -> Crops:
    """Return random square crops, (count, crops): of an area that is uniform in [0.08, 1] of the image's, anywhere.

    Args:
        count: Images.
        crops: Of each.
        size: S, the images' side in pixels.
        stream: Source of every draw.
    """
    area, down, right = torch.rand(count, crops, 3, dtype=torch.float64, generator=stream).unbind(2)
    sides = (size * (LEAST_AREA + (1.0 - LEAST_AREA) * area).sqrt()).round().clamp(min=1.0)
    tops, lefts = ((share * (size - sides + 1.0)).floor() for share in (down, right))
    return Crops(tops.long(), lefts.long(), sides.long())


def resized(pixels: Tensor, crops: Crops, height: int, width: int) -> Tensor:
    """Return one crop of each image, brought to a size: bilinear, over all pixels that a smaller one stands for.

    Args:
        pixels: Float32 (N, C, S, S).
        crops: Of (N,).
        height: Of the result, in pixels.
        width: Likewise.

    Returns:
        Float32 (N, C, height, width).
    """
    rows = _weights(crops.tops, crops.sides, pixels.shape[2], height)[:, None]
    columns = _weights(crops.lefts, crops.sides, pixels.shape[3], width)[:, None]
    return (rows @ pixels.double() @ columns.transpose(2, 3)).float()


def _weights(begins: Tensor, sides: Tensor, source: int, target: int) -> Tensor:
    """Return what each of ``source`` pixels of a line counts in each of ``target``, float64 (N, target, source)."""
    begins, sides = begins.double()[:, None, None], sides.double()[:, None, None]
    scale = sides / target
    middles = begins + scale * (torch.arange(target).double()[:, None] + 0.5)
    pixels = torch.arange(source).double() + 0.5
    weights = (1.0 - (pixels - middles).abs() / scale.clamp(min=1.0)).clamp(min=0.0)
    weights = weights * ((pixels > begins) & (pixels < begins + sides))
    return weights / weights.sum(2, keepdim=True)


def stitched(pixels: Tensor, crops: Crops, count: int, factor: int) -> Tensor:
    """Return ``count`` images of factor × factor crops each, row by row: image i has the crops i, i + count, …

    The first rows and columns are a pixel larger where the side is no multiple of the factor.

    Args:
        pixels: Float32 (count · factor², C, S, S), the image of each crop.
        crops: Of (count · factor²,).
        count: Images to make.
        factor: Crops side by side.

    Returns:
        Float32 (count, C, S, S).
    """
    sizes = [len(part) for part in torch.arange(pixels.shape[2]).tensor_split(factor)]
    rows = []
    for row, height in enumerate(sizes):
        tiles = []
        for column, width in enumerate(sizes):
            begin = (row * factor + column) * count
            place = slice(begin, begin + count)
            tiles.append(resized(pixels[place], crops.at(place), height, width))
        rows.append(torch.cat(tiles, 3))
    return torch.cat(rows, 2)
