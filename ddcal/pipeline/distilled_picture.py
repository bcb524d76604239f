"""Distilled images as pictures, a row a class: the finished set, and how a few of its images came about."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddcal.config import DataConfig
from ddcal.distill import SyntheticSet
from ddcal.pictures import DOTS_PER_INCH, literal, save_figure
from ddcal.pipeline import Entry, Store
from ddcal.pipeline.compute.pictures import PICTURES
from ddcal.pipeline.stages.distill import MAX_CLASSES, MAX_IMAGES

logger = logging.getLogger(__name__)

PICTURE = "distilled.png"
PROGRESS_PICTURE = "progress.png"
GAP = 0.08
"""White between two images, in parts of their side."""

LETTER_INCHES, MAX_NAME = 0.075, 28
"""Room for a letter of a name or of the title, in inches; a longer name is cut."""


class DistilledPictures:
    """Pictures of distilled sets, each drawn once and kept."""

    def __init__(self, folder: Path) -> None:
        """Keep them under ``folder``, a folder for each distilled set."""
        self.folder = folder
        self._inverse: dict[str, Callable[[Tensor], Tensor]] = {}

    def picture(self, store: Store, key: str, data: dict[str, Any]) -> Path | None:
        """Return the picture of a distilled set, drawn now if it is not there; None if that is not possible.

        Args:
            store: Where the set is.
            key: Its key.
            data: The data section of its trial; only a whitened set of an earlier ddcal, which has no pictures of its
                own, asks for the real images, once a study.
        """

        def draw(entry: Entry, path: Path) -> Path:
            synthetic = SyntheticSet.load(entry.folder)
            kept = load_file(entry.folder / PICTURES) if PICTURES in entry.files else {}
            if "grid" in kept:
                return draw_grid(synthetic, kept["grid"].float() / 255.0, path)
            return draw_distilled(synthetic, self._inverse_of(synthetic, data), path)

        return self._drawn(store, key, PICTURE, draw)

    def progress(self, store: Store, key: str) -> Path | None:
        """Return the picture of how a set came about, drawn now if it is not there; None if it has none.

        Args:
            store: Where the set is.
            key: Its key.
        """
        return self._drawn(store, key, PROGRESS_PICTURE, draw_progress)

    def _drawn(self, store: Store, key: str, name: str, draw: Callable[[Entry, Path], Path | None]) -> Path | None:
        path = self.folder / key[:16] / name
        if path.is_file():
            return path
        try:
            entry = store.get("distill", key)
            return None if entry is None else draw(entry, path)
        except Exception as error:  # a picture is not worth a retry
            logger.warning("no %s of the distilled set %s: %s: %s", name, key[:12], type(error).__name__, error)
            return None

    def _inverse_of(self, synthetic: SyntheticSet, data: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        if synthetic.provenance.get("preprocessing") == "normalisation":
            from ddcal.data.preprocessing import from_tensors

            return from_tensors("normalisation", synthetic.preprocessing).inverse_transform
        config = DataConfig.model_validate(data)
        known = config.model_dump_json()
        if known not in self._inverse:
            from ddcal.data import load_dataset

            self._inverse[known] = load_dataset(config).preprocessing.inverse_transform
        return self._inverse[known]


def draw_distilled(synthetic: SyntheticSet, inverse: Callable[[Tensor], Tensor], path: Path) -> Path:
    """Draw the first images of the first classes of a distilled set, and save a PNG.

    Args:
        synthetic: The set.
        inverse: From network inputs (N, C, H, W) to pictures, which are clamped to [0, 1].
        path: The file.

    Returns:
        ``path``.
    """
    classes = min(synthetic.num_classes, MAX_CLASSES)
    shown = min(synthetic.images_per_class, MAX_IMAGES)
    images = synthetic.images.view(synthetic.num_classes, synthetic.images_per_class, *synthetic.images.shape[1:])
    pictures = inverse(images[:classes, :shown].flatten(0, 1)).clamp(0.0, 1.0)
    return draw_grid(synthetic, pictures.unflatten(0, (classes, shown)), path)


def draw_grid(synthetic: SyntheticSet, pictures: Tensor, path: Path) -> Path:
    """Draw pictures (classes, images, C, H, W) in [0, 1] of a distilled set, its first ones, and save a PNG."""
    classes, shown = pictures.shape[:2]
    count = f"{synthetic.ipc} image{'s' * (synthetic.ipc != 1)} a class"
    facts = f"{synthetic.provenance.get('backbone', '')}, {count}".lstrip(", ")
    cut = []
    if classes < synthetic.num_classes:
        cut.append(f"{classes} of {synthetic.num_classes} classes")
    if shown < synthetic.images_per_class:
        cut.append(f"{shown} of {synthetic.images_per_class} images each")
    title = facts + (f"\n{', '.join(cut)}" if cut else "")
    names = synthetic.provenance.get("class_names") or [str(label) for label in range(synthetic.num_classes)]
    return save_figure(_sheet(pictures, [str(n) for n in names[:classes]], title), path)


def draw_progress(entry: Entry, path: Path) -> Path | None:
    """Draw the images that a distill stage kept as they came about, a column a moment, and save a PNG.

    Args:
        entry: The stage, whose curve tells the probe's accuracy at some of the moments.
        path: The file.

    Returns:
        ``path``, or None if the stage kept none.
    """
    if PICTURES not in entry.files:
        return None
    kept = load_file(entry.folder / PICTURES)
    if "progress" not in kept:
        return None
    provenance = SyntheticSet.load(entry.folder).provenance
    pictures = (kept["progress"].float() / 255.0).transpose(0, 1)
    fractions, accuracy = kept["fractions"].tolist(), _accuracy_at(entry.meta["curve"], provenance["iterations"])
    columns = []
    for fraction in fractions:
        moment = round(fraction * provenance["iterations"])
        score = f"\nval {100 * accuracy[moment]:.1f} %" if moment in accuracy else "\n "
        columns.append(("start" if fraction == 0.0 else f"{100 * fraction:.0f} %") + score)
    names = provenance.get("class_names") or [str(label) for label in range(len(pictures))]
    title = f"{provenance['backbone']}, the first image of each class over {provenance['iterations']} iterations"
    if accuracy:
        title += "\nbelow: accuracy on val of a short network trained on the set"
    if len(pictures) < len(names):
        title += f"\n{len(pictures)} of {len(names)} classes"
    return save_figure(_sheet(pictures, [str(name) for name in names[: len(pictures)]], title, columns), path)


def _accuracy_at(curve: list[dict[str, float]], iterations: int) -> dict[int, float]:
    """Return iteration → the accuracy of the probe on ``val`` there."""
    return {math.ceil(p["fraction"] * iterations - 1e-9): p["accuracy"] for p in curve if "accuracy" in p}


def _sheet(pictures: Tensor, rows: list[str], title: str, columns: list[str] | None = None) -> Any:
    """Return a figure of pictures (rows, columns, C, H, W) in [0, 1], named at the left and, if asked, below."""
    from matplotlib.figure import Figure

    if pictures.shape[2] not in (1, 3):
        pictures = pictures.mean(2, keepdim=True)
    down, across, channels, height, width = pictures.shape
    gap = max(1, round(GAP * height))
    sheet = torch.ones(channels, down * (height + gap) - gap, across * (width + gap) - gap)
    for row in range(down):
        for column in range(across):
            top, left = row * (height + gap), column * (width + gap)
            sheet[:, top : top + height, left : left + width] = pictures[row, column]
    rows = [literal(row if len(row) <= MAX_NAME else f"{row[: MAX_NAME - 1]}…") for row in rows]
    lines = title.splitlines()
    margin, above = 0.2 + LETTER_INCHES * max(map(len, rows)), 0.15 + 0.17 * max(2, len(lines))
    below = 0.1 if columns is None else 0.45
    side = max(0.5 if columns is None else 0.75, width / DOTS_PER_INCH)  # no image is made smaller than it is
    across_inches, down_inches = side * across, side * down
    page = max(margin + across_inches + 0.1, 0.2 + LETTER_INCHES * max(map(len, lines)))
    tall = below + down_inches + above
    figure = Figure(figsize=(page, tall))
    axes = figure.add_axes((margin / page, below / tall, across_inches / page, down_inches / tall))
    array = sheet.permute(1, 2, 0).numpy()
    axes.imshow(array[..., 0] if channels == 1 else array, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    axes.set_yticks([row * (height + gap) + (height - 1) / 2 for row in range(down)], rows, fontsize=9)
    middles = [column * (width + gap) + (width - 1) / 2 for column in range(across)]
    axes.set_xticks(middles if columns else (), columns or (), fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.text(0.5, 1 - 0.06 / tall, literal(title), ha="center", va="top", fontsize=9)
    return figure
