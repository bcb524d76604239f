"""Checks of what the metrics and calibrators are given; each refusal names the value that is wrong."""

from __future__ import annotations

import math
import operator

import numpy as np
import numpy.typing as npt
import torch

from ddcal.soft_labels import probability_problem, targets

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
ArrayLike = torch.Tensor | npt.NDArray[np.generic]
Targets = Integers | Floats
"""Classes, int64 (N,), or soft labels, float64 (N, K), whose rows sum to 1."""


def check_matrix(values: ArrayLike, name: str = "logits") -> npt.NDArray[np.floating]:
    """Return ``values`` as a finite array (N, K) with N and K at least 1, or raise ValueError.

    float32 and float64 stay as they are, without a copy where they lie in the CPU's memory; others become float64.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        array = (values if values.dtype in (torch.float32, torch.float64) else values.double()).numpy()
    else:
        array = np.asarray(values)
        if array.dtype not in (np.float32, np.float64):
            array = np.asarray(values, np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; it must be (N, K) with at least one image and one class")
    if not (math.isfinite(array.min()) and math.isfinite(array.max())):  # NaN is kept by both
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise ValueError(f"{name}[{row}, {column}] is {array[row, column]}; every value must be finite")
    return array


def check_labels(labels: ArrayLike, shape: tuple[int, ...], name: str = "logits") -> Integers:
    """Return ``labels`` as int64 (N,) in 0..K-1, or raise ValueError; ``shape`` (N, K) is that of ``name``."""
    given = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if given.dtype.kind not in "iu":
        raise ValueError(f"labels has dtype {given.dtype}; it must hold integer classes")
    classes = given.astype(np.int64, copy=False)
    if classes.shape != shape[:1]:
        raise ValueError(f"labels has shape {classes.shape}; {name} of shape {shape} needs ({shape[0]},)")
    outside = np.flatnonzero((classes < 0) | (classes >= shape[1]))
    if len(outside):
        first = outside[0]
        raise ValueError(f"labels[{first}] is {classes[first]}; it must be in 0..{shape[1] - 1}")
    return classes


def check_targets(labels: ArrayLike, shape: tuple[int, ...], name: str = "logits") -> Targets:
    """Return classes as `check_labels` does, or probabilities (N, K) as float64 rows over their sum.

    Rows that are one-hot to the bit, all of them, are the classes that they stand for.

    Raises:
        ValueError: as `check_labels`; probabilities of another shape, not finite, below 0, or whose sum is not 1.
    """
    given = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if given.ndim != 2 or given.dtype.kind != "f":
        return check_labels(labels, shape, name)
    if given.shape != shape:
        raise ValueError(f"labels has shape {given.shape}; {name} of shape {shape} needs ({shape[0]},), or {shape}")
    rows = torch.from_numpy(given.astype(np.float64))
    if problem := probability_problem(rows):
        raise ValueError(f"labels: {problem}")
    found = targets(rows)
    classes: Targets = (found if found.ndim == 1 else rows / rows.sum(1, keepdim=True)).numpy()
    return classes


def classes_of(found: Targets) -> Integers:
    """Return what `check_targets` has returned as classes: of probabilities the first of the most probable ones."""
    return found.argmax(axis=1) if found.ndim == 2 else found.astype(np.int64, copy=False)


def check_logits(logits: ArrayLike, name: str = "logits") -> Floats:
    """Return ``logits`` as a finite float64 array (N, K) with N and K at least 1, or raise ValueError."""
    return check_matrix(logits, name).astype(np.float64, copy=False)


def check_logits_labels(logits: ArrayLike, labels: ArrayLike, name: str = "logits") -> tuple[Floats, Integers]:
    """Return `check_logits` and ``labels`` as int64 (N,) in 0..K-1, or raise ValueError."""
    values = check_logits(logits, name)
    return values, check_labels(labels, values.shape, name)


def check_count(name: str, value: int) -> int:
    """Return ``value`` as an int of at least 1, or raise ValueError that calls it ``name``."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    return count


def check_temperature(temperature: float) -> float:
    """Return ``temperature`` as a finite float other than zero, or raise ValueError."""
    value = float(temperature)
    if not math.isfinite(value) or value == 0.0:
        raise ValueError(f"temperature is {temperature!r}; it must be a finite number other than zero")
    return value
