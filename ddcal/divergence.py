"""What counts as diverged, in every loop alike: a loss or a learned value that is not finite, or has exploded.

A loss has exploded above `LOSS_LIMIT` times its usual size, which is what it is where nothing has been learned: 1 for
the normalised distance of MTT, log K for a cross-entropy, one a feature for DM, one an output row for DC and DSA (whose
distance is at most twice that, so it can be NaN alone). A learned value (an element of an image, a base or a
coefficient) has exploded above `VALUE_LIMIT`: in network-input space they are of the order of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LOSS_LIMIT = 1e6
"""Times the usual size; a student whose learned rate is far too high comes back from a loss of 1e4."""

VALUE_LIMIT = 1e4
"""In absolute value."""


def usual_cross_entropy(classes: int) -> float:
    """Return the cross-entropy of a network that has learned nothing, log K, at least 1."""
    return max(1.0, math.log(classes))


def loss_problem(name: str, loss: float, usual: float) -> str:
    """Say what is wrong with a loss: "" if nothing is.

    Args:
        name: What the loss is called in the sentence.
        loss: Its value.
        usual: Its size where nothing has been learned.
    """
    if not math.isfinite(loss):
        return f"{name} {loss:g}"
    if loss > LOSS_LIMIT * usual:
        return f"{name} {loss:g}, more than {LOSS_LIMIT:g} times the usual {usual:.3g}"
    return ""


def value_problem(name: str, tensors: Sequence[Tensor]) -> str:
    """Say what is wrong with learned values: "" if nothing is.

    Args:
        name: What one value is called in the sentence.
        tensors: What is learned.
    """
    return largest_problem(name, float(largest_of(tensors)))


def largest_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the largest absolute value of learned tensors, a scalar on their device; a NaN is the largest."""
    return torch.stack([tensor.abs().max() for tensor in tensors]).max()


def largest_problem(name: str, largest: float) -> str:
    """Say what is wrong with learned values, of which this is the largest: "" if nothing is."""
    if not largest <= VALUE_LIMIT:
        return f"{name} reached {largest:g}, the limit is {VALUE_LIMIT:g}"
    return ""


class Looks:
    """Looks at numbers that a loop computes: at once on a CPU, together on a GPU, whose host waits at each."""

    def __init__(self, device: torch.device) -> None:
        self._at_once = device.type == "cpu"
        self._waiting: list[tuple[Tensor, Callable[[float], None]]] = []

    def at(self, value: Tensor, check: Callable[[float], None]) -> None:
        """Have ``check`` called with a scalar, float32: now, or in `now`; it raises where something is wrong."""
        if self._at_once:
            check(float(value))
        else:
            self._waiting.append((value.detach(), check))

    def now(self) -> None:
        """Look at all that waits, in its order."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            values = torch.stack([value for value, _ in waiting]).tolist()
            for (_, check), value in zip(waiting, values, strict=True):
                check(value)
