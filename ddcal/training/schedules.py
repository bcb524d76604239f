"""How the learning rate falls over the epochs."""

from __future__ import annotations

import math


def rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Return what the learning rate is multiplied by in an epoch.

    ``step``: 1 in the first half and 0.1 from epoch ⌈epochs/2⌉ on (PAPER.md, Evaluation training); one epoch alone has
    1. ``cosine``: (1 + cos(π · epoch / epochs)) / 2, which is 1 in the first epoch and would be 0 in the one after the
    last (Loshchilov, Hutter, ICLR 2017, without restarts, epoch by epoch). ``constant``: 1.

    Args:
        schedule: As ``train.schedule``.
        epoch: The epoch that begins, counted from 0.
        epochs: How many there are.

    Raises:
        ValueError: for another schedule.
    """
    match schedule:
        case "step":
            return 0.1 if epoch > 0 and 2 * epoch >= epochs else 1.0
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
        case "constant":
            return 1.0
    raise ValueError(f"schedule is {schedule!r}; it must be one of step, cosine, constant")
