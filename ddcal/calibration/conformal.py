"""Conformal prediction sets: sets of classes that hold the right one with a probability that was asked for.

Split conformal prediction (Vovk et al. 2005; Angelopoulos & Bates 2021, section 1): scores of n labelled images give a
threshold, and an image's set holds every class whose score is not above it. Where those n and the new image are
exchangeable, the set holds the right class with a probability of at least ``coverage`` and, for scores without ties, at
most ``coverage`` + 1/(n + 1).

- ``thr``: 1 − p of the class (Sadinle, Lei, Wasserman 2019, "Least Ambiguous Set-Valued Classifiers").
- ``aps``: the probability of all classes that are more likely, and of the class itself times a uniform number (Romano,
  Sesia, Candès, NeurIPS 2020).
- ``raps``: that, and `RAPS_WEIGHT` for every place of the class beyond `RAPS_PLACES` (Angelopoulos et al., ICLR 2021).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ddcal.calibration.checks import ArrayLike, Floats, Integers, check_labels, check_matrix

KINDS = ("thr", "aps", "raps")
RAPS_WEIGHT = 0.01
RAPS_PLACES = 5


class Sets(NamedTuple):
    """How prediction sets do on labelled images: the share that holds the label, and the mean number of classes."""

    coverage: float
    size: float


def conformal_scores(probs: ArrayLike, kind: str, uniform: ArrayLike | None = None) -> Floats:
    """Return the score of every class of every image, float64 (N, K): the lower, the more the class belongs.

    Args:
        probs: (N, K) probabilities. Of equal ones the first counts as the more likely.
        kind: One of `KINDS`.
        uniform: (N,) numbers in [0, 1), drawn uniformly, for ``aps`` and ``raps``.

    Raises:
        ValueError: for another kind, or without ``uniform`` where it is needed.
    """
    shares = check_matrix(probs).astype(np.float64)
    if kind == "thr":
        return 1.0 - shares
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if uniform is None:
        raise ValueError(f"uniform is None; {kind} needs a uniform number an image")
    order = np.argsort(-shares, axis=1, kind="stable")
    ordered = np.take_along_axis(shares, order, axis=1)
    above = np.cumsum(ordered, axis=1) - ordered
    scores = above + np.asarray(uniform, np.float64)[:, None] * ordered
    if kind == "raps":
        scores += RAPS_WEIGHT * np.maximum(np.arange(1, shares.shape[1] + 1) - RAPS_PLACES, 0)
    found = np.empty_like(scores)
    np.put_along_axis(found, order, scores, axis=1)
    return found


def conformal_threshold(scores: ArrayLike, labels: ArrayLike, coverage: float) -> float:
    """Return the ⌈(n + 1) · coverage⌉-th smallest score of n labels; infinity where n is too small for it.

    Args:
        scores: (n, K), as from `conformal_scores`.
        labels: (n,) integers in 0..K-1.
        coverage: In (0, 1).

    Raises:
        ValueError: for a coverage outside of (0, 1), or labels as `ddcal.calibration.score`.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage is {coverage!r}; it must be above 0 and below 1")
    values, classes = _checked(scores, labels)
    at_label = np.sort(values[np.arange(len(values)), classes])
    place = math.ceil((len(at_label) + 1) * coverage - 1e-9)
    return float(at_label[place - 1]) if place <= len(at_label) else math.inf


def prediction_sets(scores: ArrayLike, labels: ArrayLike, threshold: float) -> Sets:
    """Return how the sets of the classes whose score is at most the threshold do.

    Args:
        scores: (N, K), of new images.
        labels: (N,) integers in 0..K-1.
        threshold: From `conformal_threshold`.
    """
    values, classes = _checked(scores, labels)
    held = values <= threshold
    return Sets(float(held[np.arange(len(values)), classes].mean()), float(held.sum(axis=1).mean()))


def conformal_sets(
    fitted: tuple[ArrayLike, ArrayLike],
    shown: tuple[ArrayLike, ArrayLike],
    kind: str,
    coverage: float,
    stream: torch.Generator,
) -> Sets:
    """Return how sets do on images whose threshold comes from other ones.

    Args:
        fitted: Probabilities (n, K) and labels (n,) that give the threshold.
        shown: Probabilities (N, K) and labels (N,) that are not among them.
        kind: One of `KINDS`.
        coverage: In (0, 1).
        stream: Of the uniform numbers of ``aps`` and ``raps``.

    Raises:
        ValueError: as `conformal_scores` and `conformal_threshold`.
    """
    scores = []
    for probs, labels in (fitted, shown):
        uniform = torch.rand(len(labels), generator=stream, dtype=torch.float64).numpy()
        scores.append(conformal_scores(probs, kind, uniform))
    return prediction_sets(scores[1], shown[1], conformal_threshold(scores[0], fitted[1], coverage))


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Integers]:
    values = np.asarray(scores, np.float64)
    return values, check_labels(labels, values.shape)
