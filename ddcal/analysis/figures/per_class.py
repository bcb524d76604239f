"""Equal numbers of images of every class: what is compared must be of the same size."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def images_per_class(labels: Tensor) -> int:
    """Return how many images the rarest class of ``labels``, integers (N,) from 0, has; 0 where a class has none.

    Raises:
        ValueError: if there are no labels, or they are not whole numbers of one dimension from 0.
    """
    _check(labels)
    return int(torch.bincount(labels).min())


def common_count(labels: Iterable[Tensor]) -> int:
    """Return the largest number of images a class that all sets have.

    Args:
        labels: The labels of each set, integers (N,) from 0.

    Raises:
        ValueError: if there are no sets, or as `images_per_class`.
    """
    counts = [images_per_class(one) for one in labels]
    if not counts:
        raise ValueError("no sets are given; a common number of images a class needs at least one")
    return min(counts)


def first_per_class(labels: Tensor, count: int, classes: int | None = None) -> Tensor:
    """Return the places of the first ``count`` images of every class, class after class.

    Args:
        labels: Integers (N,) from 0.
        count: Images a class.
        classes: Only the first so many classes; None: all.

    Returns:
        int64 (classes · count,), on the labels' device.

    Raises:
        ValueError: if ``count`` or ``classes`` is below 1, or a class has fewer images; or as `images_per_class`.
    """
    _check(labels)
    for name, value in (("count", count), ("classes", classes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    places = []
    last = int(labels.max()) + 1
    for one in range(last if classes is None else min(classes, last)):
        found = torch.nonzero(labels == one).flatten()
        if len(found) < count:
            raise ValueError(f"class {one} has {len(found)} images; {count} of every class were asked for")
        places.append(found[:count])
    return torch.cat(places)


def _check(labels: Tensor) -> None:
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; expected integers (N,)")
    if len(labels) == 0 or int(labels.min()) < 0:
        raise ValueError("labels are empty or below 0; expected at least one, from 0")
