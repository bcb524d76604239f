"""Many picture files to arrays: parallel, with what cannot be used listed at the end."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ddcal.data.errors import DataError
from ddcal.data.pictures import Header, decode_picture, read_header, ready_pillow

CHUNK = 128
"""Images a task: at 128 px, 6 MB."""
MAX_THREADS = 16


def image_side(folder: Path, paths: Sequence[str]) -> int:
    """Return the side of the first image that can be opened, in pixels, from its header.

    Raises:
        DataError: if it is not square, or none can be opened.
    """
    ready_pillow()
    for path in paths:
        try:
            header = read_header(folder / path)
        except (OSError, ValueError):
            continue  # the decoding lists all of these
        if header.width != header.height:
            raise DataError(f"{folder / path}: {not_square(header)}")
        return header.width
    raise DataError(f"{folder}: none of its {len(paths)} training images can be opened, for example {paths[0]}")


def not_square(header: Header) -> str:
    """Return what to do about a picture that is not square where no resolution is set."""
    return (
        f"is {header.width} × {header.height} px, and images must be square: set data.resolution, to which they are "
        "resized and cut (data.resize: crop) or squashed"
    )


def decoded_chunks(
    folder: Path,
    paths: Sequence[str],
    side: int,
    resize: str | None,
    ground: str,
    done: Callable[[int], None],
    problems: list[str],
) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 (n, side, side, 3) at a time, decoded by as many threads as there are CPUs.

    After the first image that cannot be used nothing more is yielded; the rest is still looked at.

    Args:
        folder: Where the paths begin.
        paths: One an image.
        side: As `decode_picture` has it.
        resize: As `decode_picture` has it.
        ground: As `decode_picture` has it.
        done: Called with the number of images after each chunk.
        problems: What is wrong is appended here, a line an image.
    """
    ready_pillow()
    alone = threading.Lock()

    def decode(part: Sequence[str]) -> tuple[np.ndarray | None, list[str]]:
        images, wrong = np.empty((len(part), side, side, 3), dtype=np.uint8), []
        for index, path in enumerate(part):
            try:
                images[index] = decode_picture(folder / path, side, resize, ground, alone)
            except (OSError, ValueError) as error:
                said = getattr(error, "strerror", None) or str(error).replace(str(folder / path), "it")
                wrong.append(f"{path}: {' '.join(said.split())[:200]}")
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
