"""Image files to square RGB images: parallel, with what cannot be used listed at the end."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddcal.data.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 128
"""Images a task: at 128 px, 6 MB."""
MAX_THREADS = 16
WIDE_MODES = ("I", "F")
"""Pillow's modes with more than 8 bits a channel begin so; a conversion to RGB would cut their values off."""


def image_side(folder: Path, paths: Sequence[str]) -> int:
    """Return the side of the first image that can be opened, in pixels, from its header.

    Raises:
        DataError: if it is not square, or none can be opened.
    """
    from PIL import Image

    for path in paths:
        try:
            with Image.open(folder / path) as image:
                width, height = image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # the decoding lists all of these
        if width != height:
            raise DataError(
                f"{folder / path}: is {width} × {height} px, and images must be square: set data.resolution, to which "
                "they are resized and cut (data.resize: crop) or squashed"
            )
        return width
    raise DataError(f"{folder}: none of its {len(paths)} training images can be opened, for example {paths[0]}")


def decode_image(path: Path, side: int, resize: str | None) -> np.ndarray:
    """Return an image file as uint8 (side, side, 3); grey images and palettes become RGB, transparency is dropped.

    Args:
        path: A file that Pillow reads.
        side: Height and width, in pixels.
        resize: ``crop`` resizes the short side and cuts out the centre, ``squash`` resizes both sides, both as
            torchvision's Resize and CenterCrop do on Pillow images (bilinear, antialiased); None takes no other size.

    Raises:
        OSError, SyntaxError, ValueError: if the file is damaged or not of that size.
    """
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith(WIDE_MODES):
            raise ValueError(f"pixels of mode {image.mode}; 8 bits a channel are needed")
        if resize is None and image.size != (side, side):
            raise ValueError(
                f"{image.width} × {image.height} px where others have {side} × {side}: set data.resolution"
            )
        colours = image.convert("RGB")
    return np.asarray(colours if resize is None else _resized(colours, side, resize))


def decoded_chunks(
    folder: Path, paths: Sequence[str], side: int, resize: str | None, done: Callable[[int], None], problems: list[str]
) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 (n, side, side, 3) at a time, decoded by as many threads as there are CPUs.

    After the first image that cannot be used nothing more is yielded; the rest is still looked at.

    Args:
        folder: Where the paths begin.
        paths: One an image.
        side: As `decode_image` has it.
        resize: As `decode_image` has it.
        done: Called with the number of images after each chunk.
        problems: What is wrong is appended here, a line an image.
    """
    from PIL import Image

    Image.init()  # not in several threads at once

    def decode(part: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
        images, wrong = np.empty((len(part), side, side, 3), dtype=np.uint8), []
        for index, path in enumerate(part):
            try:
                images[index] = decode_image(folder / path, side, resize)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                said = " ".join(str(error).replace(str(folder / path), "it").split())
                wrong.append(f"{path}: {said[:200]}")
        return (None if wrong else images), wrong

    # Threads: Pillow lets others run while it decodes and resizes, and processes cannot be started everywhere.
    threads = min(
        MAX_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    waiting = deque[tuple[int, Future[tuple[np.ndarray | None, list[str]]]]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in range(0, len(paths) + 2 * threads * CHUNK, CHUNK):
                part = paths[start : start + CHUNK]
                if part:
                    waiting.append((len(part), pool.submit(decode, part)))
                if waiting and (len(waiting) > 2 * threads or not part):  # bounds what is decoded and not yet written
                    count, future = waiting.popleft()
                    images, wrong = future.result()
                    problems += wrong
                    done(count)
                    if images is not None and not problems:
                        yield images
        finally:
            for _, future in waiting:
                future.cancel()


def _resized(image: Image, side: int, resize: str) -> Image:
    from PIL.Image import Resampling

    width, height = image.size
    if resize == "squash":
        return image.resize((side, side), Resampling.BILINEAR)
    short = min(width, height)
    wide, high = (side if length == short else int(side * length / short) for length in (width, height))
    left, top = round((wide - side) / 2.0), round((high - side) / 2.0)
    return image.resize((wide, high), Resampling.BILINEAR).crop((left, top, left + side, top + side))
