"""How the learning rate falls over the epochs."""

from __future__ import annotations

import math


def rate_factor(schedule: str, epoch: int, epochs: int) -> float:
    """Return what the learning rate is multiplied by in an epoch.

    ``step``: 1 in the first half and 0.1 from epoch ⌈epochs/2⌉ on (method.md, Evaluation training); one epoch alone has
    1. ``step_reference``: as the public codes of DC, DSA, DM, MTT and DATM cut it, 0.1 from epoch ⌊epochs/2⌋ + 1
    on, so after 501 of 1,000 epochs and 151 of 300, where it also `restarts`. (Told 1,000, those codes train 1,001, and
    cut at the end of the epoch, after 502.) ``cosine``: (1 + cos(π · epoch / epochs)) / 2, which is 1 in the first
    epoch and would be 0 in the one after the last (Loshchilov, Hutter, ICLR 2017, without restarts, epoch by epoch).
    ``constant``: 1.

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
        case "step_reference":
            return 0.1 if epoch > epochs // 2 else 1.0
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
        case "constant":
            return 1.0
    raise ValueError(f"schedule is {schedule!r}; it must be one of step, step_reference, cosine, constant")


def restarts(schedule: str, epoch: int, epochs: int) -> bool:
    """Return whether the optimiser begins anew in an epoch, its momentum at zero.

    With ``step_reference`` it does where the rate falls: the reference codes make a new optimiser there.

    Args:
        schedule: As ``train.schedule``.
        epoch: The epoch that begins, counted from 0.
        epochs: How many there are.
    """
    return schedule == "step_reference" and epoch == epochs // 2 + 1
