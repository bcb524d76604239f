"""Test images of data that is not a trial's own, in the shape of the trial's: what is out of its distribution."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ddcal.config import DataConfig
from ddcal.data.dataset import split_by_class
from ddcal.data.decoded import open_decoded
from ddcal.data.errors import DataError
from ddcal.data.fingerprint import own_cache, source_fingerprint
from ddcal.data.preprocessing import unit_images
from ddcal.data.sources import locate_source, read_source
from ddcal.seeding import generator

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image (ITU-R BT.601)."""

LEAST_RESOLUTION = 8
"""What ``data.resolution`` is at least: smaller images come from those of this side."""


def other_test_images(config: DataConfig, channels: int, side: int, most: int) -> Tensor:
    """Return test images as float32 (n, channels, side, side) in [0, 1], in the source's order.

    Args:
        config: The other data.
        channels: As those of the trial's images.
        side: Height and width of the trial's images, in pixels.
        most: How many are taken at most, drawn as `drawn_rows` draws them.

    Raises:
        DataError: if files are missing or damaged, or its channels cannot become those of the trial.
    """
    cache = own_cache(config)
    source = replace(locate_source(config), derived=cache)
    if source.kind == "images":
        config = config.model_copy(update={"resolution": max(LEAST_RESOLUTION, side)})
        raw, _ = open_decoded(config, source, source_fingerprint(config.name, source, config.root))
    else:
        raw = read_source(config, source)
    images, rows = raw.test_images, torch.arange(len(raw.test_labels))
    if config.spec.test_fraction:
        every = torch.arange(len(raw.train_labels))
        rows = split_by_class(raw.train_labels, every, config.spec.test_fraction, f"{config.name}-test")[1]
        images = raw.train_images
    if said := channel_problem(images.shape[3], channels):
        raise DataError(f"{source.place}: {said}")
    return matched(unit_images(images, rows[drawn_rows(len(rows), most)], side), channels)


def drawn_rows(count: int, most: int) -> Tensor:
    """Return at most ``most`` of ``count`` rows, int64, ascending; the same for every trial, whatever its seed."""
    return torch.randperm(count, generator=generator(0, "data", "shift"))[:most].sort().values


def channel_problem(given: int, wanted: int) -> str:
    """Return why images of so many channels cannot become images of ``wanted`` channels; "" if they can."""
    if given in (wanted, 1) or (given, wanted) == (len(LUMINANCE), 1):
        return ""
    return f"its images have {given} channels, those of the trial {wanted}: grey ones fit any, coloured ones grey ones"


def matched(images: Tensor, channels: int) -> Tensor:
    """Return images (N, C, S, S) with other channels: grey ones repeated, or the luminance of coloured ones.

    Args:
        images: float32 in [0, 1].
        channels: As `channel_problem` allows.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1).contiguous()
    red, green, blue = (weight * images[:, index] for index, weight in enumerate(LUMINANCE))
    return (red + green + blue)[:, None].clamp(0.0, 1.0)
