"""Masked Distillation Training: the mask that a distillation loop puts on synthetic images (method.md, MDT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ddcal.config.trial import MDTMaskConfig
from ddcal.masking import mask_images, random_mask
from ddcal.moving import move_together
from ddcal.seeding import generator


class SyntheticMask:
    """The masks of one distillation, drawn anew at every pass (``step``), once an iteration, or once (``fixed``).

    They are drawn on the CPU, so that a GPU has the same ones.
    """

    def __init__(self, config: MDTMaskConfig, seed: int, device: torch.device) -> None:
        self.config, self.seed, self.device = config, seed, device
        self._stream: torch.Generator | None = None
        self._kept: Tensor | None = None
        self._of_steps: list[Tensor] | None = None
        self._iteration = 0

    def begin(self, iteration: int, shape: tuple[int, ...]) -> None:
        """Start an iteration over a synthetic set of ``shape`` (M, C, H, W)."""
        if self.config.ratio == 0.0:
            return
        self._iteration, self._of_steps = iteration, None
        index = 0 if self.config.resample == "fixed" else iteration
        self._stream = generator(self.seed, "distill", "mask", index)
        if self.config.resample != "step":
            kept = random_mask(shape, self.config.ratio, self._stream, self.config.unit)
            (self._kept,) = move_together([kept], self.device)

    def apply(self, images: Tensor, index: slice | Tensor, where: Literal["matching", "inner"]) -> Tensor:
        """Return ``images`` (the members ``index`` of the set) masked as the config says for this kind of pass."""
        if self.config.ratio == 0.0 or self.config.where not in ("both", where):
            return images
        assert self._stream is not None, "begin() comes first"
        if self._kept is None:
            return mask_images(images, self.config.ratio, self._stream, self.config.unit)
        return masked(images, self._kept[index])

    def draw(self, shapes: Sequence[tuple[int, ...]], where: Literal["matching", "inner"]) -> list[Tensor] | None:
        """Return the masks of the next passes of this kind, one after the other and moved together.

        None where `apply` draws nothing for them: it is to be called then.
        """
        drawn_anew = self.config.ratio > 0.0 and self._kept is None and self.config.where in ("both", where)
        if not drawn_anew:
            return None
        assert self._stream is not None, "begin() comes first"
        ratio, unit = self.config.ratio, self.config.unit
        return move_together([random_mask(shape, ratio, self._stream, unit) for shape in shapes], self.device)

    def apply_at(self, step: int, images: Tensor, index: slice | Tensor) -> Tensor:
        """Return ``images`` (the members ``index``) masked for step ``step`` of an unrolled loop.

        The same step of an iteration gets the same mask every time: the loop is run again for its gradient.
        """
        if self.config.ratio == 0.0:
            return images
        if self._kept is not None:
            return masked(images, self._kept[index])
        if self._of_steps is not None:
            return masked(images, self._of_steps[step])
        return mask_images(images, self.config.ratio, self._stream_of(step), self.config.unit)

    def draw_steps(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Draw the masks of an unrolled loop, of these shapes, and move them together; on the CPU draw them later."""
        if self.config.ratio == 0.0 or self._kept is not None or self.device.type == "cpu":
            return
        ratio, unit = self.config.ratio, self.config.unit
        drawn = [random_mask(shape, ratio, self._stream_of(step), unit) for step, shape in enumerate(shapes)]
        self._of_steps = move_together(drawn, self.device)

    def _stream_of(self, step: int) -> torch.Generator:
        return generator(self.seed, "distill", f"mask-{step}", self._iteration)


def masked(images: Tensor, keep: Tensor) -> Tensor:
    """Return images with what a keep-mask of their shape does not keep set to 0; gradients flow where it does."""
    return images.masked_fill(~keep, 0.0)
