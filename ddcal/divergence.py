"""What counts as diverged, in every loop alike: a loss or a learned value that is not finite, or has exploded.

A loss has exploded above `LOSS_LIMIT` times its usual size, which is what it is where nothing has been learned: 1 for
the normalised distance of MTT, log K for a cross-entropy, one a feature for DM, one an output row for DC and DSA (whose
distance is at most twice that, so it can be NaN alone). A learned value (an element of an image, a base or a
coefficient) has exploded above `VALUE_LIMIT`: in network-input space they are of the order of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    largest = float(torch.stack([tensor.abs().max() for tensor in tensors]).max())  # a NaN is the largest
    if not largest <= VALUE_LIMIT:
        return f"{name} reached {largest:g}, the limit is {VALUE_LIMIT:g}"
    return ""
