"""Images that stay in a memory map of bytes and become network inputs when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ddcal.data.preprocessing import CHUNK, Preprocessing, unit_images

aten = torch.ops.aten
READ_ONLY = "these images are a read-only map of the data set's files: clone() them first"


class MappedImages(Tensor):
    """A read-only float32 tensor (N, C, S, S) of network inputs that holds bytes and row numbers instead of values.

    Rows (an index, a slice, `split`) are worked out when they are taken and have the bits that a preprocessed copy of
    everything would have; slices and `split` take nothing yet. Any other operation works out all rows first, as it
    would on a usual tensor. A move to another device moves the bytes, a quarter of the size. It is a tensor, rather
    than something like one, so that nothing that reads a `ddcal.data.Split` needs to know of it.
    """

    stored: Tensor
    rows: Tensor
    preprocessing: Preprocessing | None

    @staticmethod
    def __new__(cls, stored: Tensor, rows: Tensor, preprocessing: Preprocessing | None) -> MappedImages:
        """Return the images at ``rows`` of ``stored``.

        Args:
            stored: uint8 (M, S, S, C); usually mapped from a file.
            rows: int64 (N,), which of them and in which order, on the device of ``stored``.
            preprocessing: Applied to them; None leaves them in [0, 1].
        """
        _, height, width, channels = stored.shape
        size = (len(rows), channels, height, width)
        images = Tensor._make_wrapper_subclass(cls, size, dtype=torch.float32, device=stored.device)
        images.stored, images.rows, images.preprocessing = stored, rows, preprocessing
        return images

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"MappedImages(shape={tuple(self.shape)}, device={self.device})"

    def __setitem__(self, *_: Any) -> None:
        raise RuntimeError(READ_ONLY)

    def inputs(self, rows: Tensor | None = None) -> Tensor:
        """Return images as a usual tensor (n, C, S, S): those at ``rows`` of ``stored``, or all."""
        unit = unit_images(self.stored, self.rows if rows is None else rows, None)
        return unit if self.preprocessing is None else self.preprocessing.transform(unit)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], MappedImages) and (lazily := _LAZILY.get(func)):
            result = lazily(args[0], *args[1:], **kwargs)
            if result is not NotImplemented:
                return result
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if isinstance(value, MappedImages) and argument.alias_info is not None and argument.alias_info.is_write:
                raise RuntimeError(READ_ONLY)
        args, kwargs = tree_map_only(MappedImages, lambda images: images.inputs(), (args, kwargs))
        return func(*args, **kwargs)


def _same(images: MappedImages) -> MappedImages:
    return MappedImages(images.stored, images.rows, images.preprocessing)


def _slice(images: MappedImages, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    if dim not in (0, -4):
        return NotImplemented
    return MappedImages(images.stored, images.rows[start:end:step], images.preprocessing)


def _split(images: MappedImages, size: int | list[int], dim: int = 0) -> Any:
    if dim not in (0, -4):
        return NotImplemented
    return [MappedImages(images.stored, rows, images.preprocessing) for rows in images.rows.split(size)]


def _select(images: MappedImages, dim: int, index: int) -> Any:
    return images.inputs(images.rows[index].view(1))[0] if dim in (0, -4) else NotImplemented


def _index(images: MappedImages, indices: list[Tensor | None]) -> Any:
    if len(indices) != 1 or indices[0] is None or (indices[0].dtype == torch.bool and indices[0].dim() > 1):
        return NotImplemented
    rows = images.rows[indices[0].to(images.device)]
    return images.inputs(rows.flatten()).view(*rows.shape, *images.shape[1:])


def _index_select(images: MappedImages, dim: int, index: Tensor) -> Any:
    return images.inputs(images.rows[index]) if dim in (0, -4) else NotImplemented


def _to(images: MappedImages, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    if device is None or dtype not in (None, torch.float32):
        return NotImplemented
    count = len(images)
    moved = torch.empty((count, *images.stored.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, count, CHUNK):  # never a second copy of everything on this side
        moved[start : start + CHUNK] = images.stored[images.rows[start : start + CHUNK]].to(device)
    return MappedImages(moved, torch.arange(count, device=device), images.preprocessing)


_LAZILY: dict[Any, Callable[..., Any]] = {
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.slice.Tensor: _slice,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    aten.index_select.default: _index_select,
    aten._to_copy.default: _to,
}
