"""One picture file: opened within limits, turned as its EXIF tag says, laid on a ground, and 8 bits a channel.

A colour profile (ICC) is not applied, as torchvision does not either: the numbers in the file are the pixels. Of a file
with several pictures (animated WebP, PNG and GIF, pages of a TIFF) the first is read. What a file is, its content
decides, among `FORMATS`; no other reader of Pillow is asked (that of EPS starts another program).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING

import numpy as np

from ddcal.untrusted import open_regular, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
MAX_PIXELS = 89_478_485
"""The most pixels of one picture that is decoded (268 MB as RGB), which is where Pillow begins to warn."""
LARGE_PIXELS = 2**24
"""Pictures with more pixels are decoded one at a time: many at once could need more memory than there is."""
MAX_FILE_BYTES = 2**29
"""The largest file of one picture: as much as `MAX_PIXELS` need without any compression, and more."""
WIDE_MODES = ("I", "F")
"""Pillow's modes with more than 8 bits a channel begin so; its own conversion to RGB would cut their values off."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""
_EXIF_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""What a PNG that says how it is turned has in it somewhere, in front of the pixels or behind them."""


@dataclass(frozen=True)
class Header:
    """What is known of a picture without its pixels.

    Attributes:
        width: In pixels, as it is stored.
        height: In pixels, as it is stored.
        transparent: Whether it can have transparent pixels.
        animated: Whether the file has several pictures, of which the first is read.
        changed: Whether the first version of this decoder made other pixels of it: it is turned, or has pixels that
            are not opaque. False where that was not asked for.
    """

    width: int
    height: int
    transparent: bool
    animated: bool
    changed: bool = False


def ready_pillow() -> None:
    """Let Pillow know its formats, which must not happen in several threads at once, and not warn of its own limit."""
    from PIL import Image

    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `MAX_PIXELS` says it as an error


def picture_bytes(path: Path) -> bytes:
    """Return the content of a picture's file, which may be a link to a regular file.

    Raises:
        OSError, ddcal.untrusted.Untrusted: if it cannot be read, is no regular file or is larger than `MAX_FILE_BYTES`.
    """
    return read_bytes(path, MAX_FILE_BYTES, links=True)


def read_header(source: Path | bytes, alone: Lock | None = None) -> Header:
    """Return what is known of a picture without its pixels.

    Args:
        source: Its file, or the file's content. Of a content, `Header.changed` is worked out too, for which the pixels
            of a picture that can be transparent are decoded.
        alone: Held while those of a large one are.

    Raises:
        ValueError: saying what is wrong, if it cannot be used.
        OSError: if the file cannot be opened.
    """
    if isinstance(source, Path):
        with open_regular(source, max_bytes=MAX_FILE_BYTES, links=True) as file:
            return _header(file, None, alone)
    return _header(io.BytesIO(source), source, alone)


def decode_picture(path: Path, side: int, resize: str | None, ground: str, alone: Lock | None = None) -> np.ndarray:
    """Return a picture as uint8 (side, side, 3); grey ones and palettes become RGB, 16 bits become 8 (÷ 257).

    Args:
        path: A file of one of `FORMATS`.
        side: Height and width, in pixels.
        resize: ``crop`` resizes the short side and cuts out the centre, ``squash`` resizes both sides, both as
            torchvision's Resize and CenterCrop do on Pillow images (bilinear, antialiased); None takes no other size.
        ground: The colour that transparent pixels are laid on, as ``data.background`` has it.
        alone: Held while a picture of more than `LARGE_PIXELS` is decoded.

    Raises:
        ValueError: saying what is wrong, if the picture is damaged, too large or not of that size.
        OSError: if the file cannot be opened.
    """
    with open_regular(path, max_bytes=MAX_FILE_BYTES, links=True) as file, _opened(file) as image:
        if resize is None and image.size != (side, side):
            raise ValueError(
                f"{image.width} × {image.height} px where others have {side} × {side}: set data.resolution"
            )
        with _held(alone, image):
            image.load()
            turn = _turn(image)
            colours = _rgb(image, ground)
            upright = colours if turn is None else colours.transpose(turn)
            return np.asarray(upright if resize is None else _resized(upright, side, resize))


def _held(alone: Lock | None, image: Image) -> contextlib.AbstractContextManager[object]:
    large = image.width * image.height > LARGE_PIXELS
    return alone if alone is not None and large else contextlib.nullcontext()


def _header(file: IO[bytes], content: bytes | None, alone: Lock | None) -> Header:
    with _opened(file) as image:
        transparent = bool(image.has_transparency_data)
        animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))  # MPO: of two lenses
        changed = False
        if content is not None:
            silent = image.format == "PNG" and not any(mark in content for mark in _EXIF_MARKS)
            with contextlib.suppress(Exception), _held(alone, image):  # damaged pixels: the decoding says so
                changed = (not silent and _turn(image) is not None) or (transparent and _see_through(image))
        return Header(image.width, image.height, transparent, animated, changed)


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image]:
    """Yield a picture with its header read; whatever Pillow makes of it inside becomes a ValueError of one line."""
    from PIL import Image, UnidentifiedImageError

    try:
        formats = [name for name in FORMATS if name in Image.OPEN]
        with Image.open(file, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width:,} × {image.height:,} px, and {_TOO_MANY}")
            _check_mode(image)
            yield image
    except UnidentifiedImageError:
        raise ValueError(f"cannot identify it: it is none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ValueError(_TOO_MANY) from None
    except MemoryError:
        raise ValueError("there is not enough memory to decode it") from None
    except Exception as error:  # whatever the decoders make of foreign bytes
        raise ValueError(" ".join(str(error).split())[:200] or type(error).__name__) from error


_TOO_MANY = f"of one picture at most {MAX_PIXELS:,} pixels are read: make it smaller"


def _check_mode(image: Image) -> None:
    if not image.mode.startswith(WIDE_MODES):
        return
    bits = 16 if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else 32
    if image.format == "TIFF" and bits == 16:
        (bits, *_) = image.tag_v2.get(258, (16,))  # type: ignore[attr-defined]  # 12 bits have another largest value
    if bits != 16 or image.mode == "F":
        raise ValueError(
            f"pixels of mode {image.mode} with {bits} bits, of which no file says which number is white: save it with "
            "8 or 16 bits a channel"
        )


def _turn(image: Image) -> Transpose | None:
    """Return how a picture has to be turned to stand upright; None leaves it. Pillow turns a TIFF itself."""
    from PIL.Image import Transpose

    if image.format == "TIFF":
        return None
    turns = (
        *(None, None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM),
        *(Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    try:
        number = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF turns nothing
        return None
    return turns[number] if isinstance(number, int) and 0 < number < len(turns) else None


def _see_through(image: Image) -> bool:
    if image.mode.startswith(WIDE_MODES):
        return False  # the first version refused it
    return image.convert("RGBA").getchannel("A").tobytes().strip(b"\xff") != b""


def _rgb(image: Image, ground: str) -> Image:
    from PIL import Image as module

    if image.mode.startswith(WIDE_MODES):
        values = np.asarray(image).astype(np.int64)
        grey = ((values * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8)  # ÷ 257, rounded
        transparent = image.info.get("transparency")
        image = module.fromarray(grey)
        if isinstance(transparent, int):
            image.putalpha(module.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return module.alpha_composite(module.new("RGBA", picture.size, ground), picture).convert("RGB")


def _resized(image: Image, side: int, resize: str) -> Image:
    from PIL.Image import Resampling

    width, height = image.size
    if resize == "squash":
        return image.resize((side, side), Resampling.BILINEAR)
    short = min(width, height)
    wide, high = (side if length == short else int(side * length / short) for length in (width, height))
    if wide * high > MAX_PIXELS:
        raise ValueError(f"{width:,} × {height:,} px are so long that resizing the short side to {side} is too large")
    left, top = round((wide - side) / 2.0), round((high - side) / 2.0)
    return image.resize((wide, high), Resampling.BILINEAR).crop((left, top, left + side, top + side))
