"""What a notebook shows of a distilled set: a line, and its first images, a row a class."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ddcal.data.errors import DataError
from ddcal.data.preprocessing import from_tensors

if TYPE_CHECKING:
    from ddcal.distill.synthetic import SyntheticSet

MOST_CLASSES, MOST_IMAGES = 10, 10
GAP = 2
"""White pixels between two images."""

WIDTH = 640
"""How wide the picture is shown at most, in pixels."""


def synthetic_html(synthetic: SyntheticSet) -> str:
    """Return a distilled set as HTML: a line, and the first images of its first classes as one picture."""
    pictures, note = _pictures(synthetic)
    names = synthetic.provenance.get("class_names") or range(synthetic.num_classes)
    classes, shown = pictures.shape[:2]
    rows = ", ".join(str(name) for name in list(names)[:classes])
    cut = f"{classes} of {synthetic.num_classes} classes, {shown} of {synthetic.images_per_class} images each{note}"
    said = html.escape(repr(synthetic).strip("<>"))
    sheet = base64.b64encode(_png(pictures)).decode()
    image = f'<img alt="distilled images" style="max-width: 100%; image-rendering: pixelated" width="{WIDTH}"'
    return f'<p>{said}</p>{image} src="data:image/png;base64,{sheet}"><p>{cut}; rows: {html.escape(rows)}</p>'


def _pictures(synthetic: SyntheticSet) -> tuple[Tensor, str]:
    """Return pictures in [0, 1], (classes, images, C, H, W), and a note where they are not in their own colours."""
    by_class = synthetic.images.detach().cpu().float().unflatten(0, (synthetic.num_classes, -1))
    images = by_class[:MOST_CLASSES, :MOST_IMAGES]
    try:
        undo = from_tensors(str(synthetic.provenance.get("preprocessing")), synthetic.preprocessing).inverse_transform
        return undo(images.flatten(0, 1)).unflatten(0, images.shape[:2]).clamp(0.0, 1.0), ""
    except (DataError, ValueError, RuntimeError):  # ZCA is undone with the real images, which are not here
        low = images.amin(dim=(2, 3, 4), keepdim=True)
        high = images.amax(dim=(2, 3, 4), keepdim=True)
        return (images - low) / (high - low).clamp_min(1e-12), ", each from its lowest to its highest value"


def _png(pictures: Tensor) -> bytes:
    """Return pictures (rows, columns, C, H, W) in [0, 1] as one PNG on white."""
    rows, columns, channels, height, width = pictures.shape
    sheet = torch.ones(channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[:, top : top + height, left : left + width] = pictures[row, column]
    pixels = (sheet.nan_to_num() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels[..., :3]).save(stream, format="png")
    return stream.getvalue()
