"""Labels that are classes, int64 (N,), or probabilities, float (N, K): soft labels.

Whoever computes with labels calls `targets` first, so that probabilities which are 0 and 1 alone are the classes that
they stand for: a one-hot set gives the bits of a hard-labelled one.
"""

from __future__ import annotations

import torch
from torch import Tensor

SUM_SLACK = 1e-4
"""How far the sum of a row of probabilities may be from 1: the rounding of a float32 softmax over many classes.

Numbers of 16 bits may be as far off as their rounding, which is more (their ``eps``).
"""


def targets(labels: Tensor) -> Tensor:
    """Return labels as they are computed with: int64 (N,) where each row is one-hot to the bit, else as they are.

    Args:
        labels: int64 (N,) or float (N, K).
    """
    if labels.ndim != 2:
        return labels
    one_hot = bool(((labels == 0.0) | (labels == 1.0)).all()) and bool((labels.sum(1) == 1.0).all())
    return labels.argmax(1) if one_hot else labels


def hard_labels(labels: Tensor) -> Tensor:
    """Return the class of each label, int64 (N,): of probabilities the most probable one, the first of equals.

    Args:
        labels: int64 (N,) or float (N, K).
    """
    return labels.argmax(1) if labels.ndim == 2 else labels


def classes_in_order(labels: Tensor) -> Tensor:
    """Return the class that each image of a set stands for, int64 (N,), on the CPU.

    That is its label. Where labels are probabilities it is its place: sets are ordered by class, N / K images of each.
    The most probable class may be another one, and would not give every class as many images. Probabilities that are 0
    and 1 alone are labels where they do.

    Args:
        labels: int64 (N,) or float (N, K), of a set that is ordered by class.
    """
    found = targets(labels)
    if labels.ndim != 2:
        return found.cpu()
    each = len(labels) // max(1, labels.shape[1])
    if found.ndim == 1 and bool((torch.bincount(found, minlength=labels.shape[1]) == each).all()):
        return found.cpu()
    return torch.arange(labels.shape[1]).repeat_interleave(each)


def repeated(labels: Tensor, times: int) -> Tensor:
    """Return labels so many times, one after the other: (times · N,) or (times · N, K)."""
    return labels.repeat(times) if labels.ndim == 1 else labels.repeat(times, 1)


def probability_problem(labels: Tensor) -> str:
    """Return what keeps float (N, K) from being rows of probabilities, naming the first; "" if nothing does."""
    finite = torch.isfinite(labels)
    if not bool(finite.all()):
        row, column = torch.nonzero(~finite)[0].tolist()
        return f"row {row} has {float(labels[row, column])} for class {column}; probabilities must be finite"
    if bool((labels < 0.0).any()):
        row, column = torch.nonzero(labels < 0.0)[0].tolist()
        return f"row {row} has {float(labels[row, column]):.6g} for class {column}; probabilities must be at least 0"
    off = (labels.double().sum(1) - 1.0).abs()
    slack = max(SUM_SLACK, torch.finfo(labels.dtype).eps)
    if len(off) and float(off.max()) > slack:
        row = int(torch.nonzero(off > slack)[0])
        return f"row {row} sums to {float(labels[row].double().sum()):.6g}; probabilities must sum to 1"
    return ""
