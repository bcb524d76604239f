"""Distilled images as a picture: a row a class, back from network inputs to what an eye can read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddcal.calibration import save_figure
from ddcal.config import DataConfig
from ddcal.distill import SyntheticSet
from ddcal.pipeline import Store

logger = logging.getLogger(__name__)

PICTURE = "distilled.png"
MAX_CLASSES, MAX_IMAGES = 20, 10
"""At most so many classes, and images of each, are shown."""

GAP = 0.08
"""White between two images, in parts of their side."""


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
            data: The data section of its trial; only ZCA asks for the real images, once a study.
        """
        path = self.folder / key[:16] / PICTURE
        if path.is_file():
            return path
        try:
            entry = store.get("distill", key)
            if entry is None:
                return None
            synthetic = SyntheticSet.load(entry.folder)
            return draw_distilled(synthetic, self._inverse_of(synthetic, data), path)
        except Exception as error:  # a picture is not worth a retry
            logger.warning("no picture of the distilled images %s: %s: %s", key[:12], type(error).__name__, error)
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
    from matplotlib.figure import Figure

    classes = min(synthetic.num_classes, MAX_CLASSES)
    shown = min(synthetic.images_per_class, MAX_IMAGES)
    images = synthetic.images.view(synthetic.num_classes, synthetic.images_per_class, *synthetic.images.shape[1:])
    chosen = images[:classes, :shown].flatten(0, 1)
    pictures = inverse(chosen).clamp(0.0, 1.0)
    if pictures.shape[1] not in (1, 3):
        pictures = pictures.mean(1, keepdim=True)
    channels, height, width = pictures.shape[1:]
    gap = max(1, round(GAP * height))
    sheet = torch.ones(channels, classes * (height + gap) - gap, shown * (width + gap) - gap)
    for index, picture in enumerate(pictures):
        top, left = (index // shown) * (height + gap), (index % shown) * (width + gap)
        sheet[:, top : top + height, left : left + width] = picture

    names = synthetic.provenance.get("class_names") or [str(label) for label in range(synthetic.num_classes)]
    figure = Figure(figsize=(2.4 + 0.5 * shown, 0.7 + 0.5 * classes), layout="constrained")
    axes = figure.add_subplot()
    array = sheet.permute(1, 2, 0).numpy()
    axes.imshow(array[..., 0] if channels == 1 else array, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    rows = [index * (height + gap) + (height - 1) / 2 for index in range(classes)]
    axes.set_yticks(rows, [str(name) for name in names[:classes]], fontsize=9)
    axes.set_xticks(())
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    facts = f"{synthetic.provenance.get('backbone', '')}, {synthetic.ipc} images a class".lstrip(", ")
    cut = []
    if classes < synthetic.num_classes:
        cut.append(f"{classes} of {synthetic.num_classes} classes")
    if shown < synthetic.images_per_class:
        cut.append(f"{shown} of {synthetic.images_per_class} images each")
    figure.suptitle(facts + (f"\n{', '.join(cut)}" if cut else ""), fontsize=9)
    return save_figure(figure, path)
