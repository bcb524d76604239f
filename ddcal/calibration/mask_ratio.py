"""The ratio of masked temperature scaling from distilled images alone: mask until the accuracy is that of unseen ones.

A network trained on distilled images is right on nearly all of them, which says nothing of its temperature. Masks make
them hard. How hard they should be is read off cross-validation: as hard as distilled images that a network has not
seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GRID = (0.0, *(step / 20 for step in range(1, 20)), 0.975, 0.99)
"""Ratios at which masked accuracies are looked at; between two of them the accuracy is taken for a straight line."""


@dataclass(frozen=True)
class RatioChoice:
    """A ratio and how it came about.

    Attributes:
        ratio: The mask's.
        target: The accuracy that was to be met.
        at_end: Whether no ratio of the grid meets it: the masked accuracy is at or below it without a mask, or above it
            at the last ratio.
        looked_at: (ratio, masked accuracy) in the order in which they were asked for.
    """

    ratio: float
    target: float
    at_end: bool
    looked_at: tuple[tuple[float, float], ...]


def ratio_for_accuracy(accuracy_at: Callable[[float], float], target: float) -> RatioChoice:
    """Return the ratio at which the masked accuracy falls to ``target``.

    The accuracy falls with the ratio but for noise (the masks of one draw grow with the ratio), so two neighbours of
    the grid between which it falls to the target are found by bisection; the ratio is interpolated between them.

    Args:
        accuracy_at: Returns the accuracy on images masked at a ratio; asked at ratios of `GRID` alone, at most seven.
        target: An accuracy in [0, 1].

    Raises:
        ValueError: if ``target`` is no number in [0, 1].
    """
    if not 0.0 <= target <= 1.0:
        raise ValueError(f"target is {target!r}; it must be an accuracy in [0, 1]")
    looked_at: list[tuple[float, float]] = []

    def look(index: int) -> float:
        value = accuracy_at(GRID[index])
        looked_at.append((GRID[index], value))
        return value

    low, high = 0, len(GRID) - 1
    above, below = look(low), look(high)
    if above <= target:
        return RatioChoice(GRID[low], target, True, tuple(looked_at))
    if below > target:
        return RatioChoice(GRID[high], target, True, tuple(looked_at))
    while high - low > 1:
        middle = (low + high) // 2
        value = look(middle)
        if value > target:
            low, above = middle, value
        else:
            high, below = middle, value
    ratio = GRID[low] + (above - target) / (above - below) * (GRID[high] - GRID[low])
    return RatioChoice(ratio, target, False, tuple(looked_at))
