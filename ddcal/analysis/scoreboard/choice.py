"""The choice of a recipe: by ``val`` alone. What chooses gets numbers of ``val`` and nothing else of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddcal.analysis.report.cells import Run

CHOSEN_BY = "val/accuracy"
"""The metric whose mean over seeds decides, the highest first."""

SOURCE, SEED = "labels.source", "seed"
"""What a recipe is chosen for, and what its mean is over; whatever else of a study's space belongs to the recipe."""

Recipe = tuple[tuple[str, Any], ...]
"""Dotted names with their values, in the order of the space."""


@dataclass(frozen=True)
class ValNumber:
    """What the choice sees of a trial.

    Attributes:
        source: Its ``labels.source``.
        recipe: The values that are chosen among.
        seed: The trial's seed.
        value: `CHOSEN_BY` of the trial.
    """

    source: str
    recipe: Recipe
    seed: int
    value: float


@dataclass(frozen=True)
class Chosen:
    """The recipe of a set under one kind of labels.

    Attributes:
        source: Their ``labels.source``.
        recipe: Those that won.
        value: The mean of `CHOSEN_BY` over seeds.
        seeds: How many seeds that is the mean of.
        others: How many other recipes were tried.
        second: The best mean of these; None without others.
    """

    source: str
    recipe: Recipe
    value: float
    seeds: int
    others: int = 0
    second: float | None = None


def val_number(run: Run) -> ValNumber | None:
    """Return what the choice may see of a trial; None if it has no such number."""
    value = (run.trial.metrics or {}).get(CHOSEN_BY)
    if run.gap is not None or value is None:
        return None
    recipe = tuple((name, value) for name, value in run.trial.values.items() if name not in (SOURCE, SEED))
    return ValNumber(run.trial.values[SOURCE], recipe, run.seed, value)


def choose(numbers: Sequence[ValNumber]) -> dict[str, Chosen]:
    """Return for each ``labels.source`` the recipe with the highest mean over seeds; of equal ones the first.

    A recipe that lacks a seed that others have is not compared: its mean would be of other sets. Where no recipe has
    all seeds, those are compared that have the most of them, and the same.
    """
    found: dict[str, dict[Recipe, dict[int, float]]] = {}
    for one in numbers:
        found.setdefault(one.source, {}).setdefault(one.recipe, {})[one.seed] = one.value
    return {source: _best(source, recipes) for source, recipes in found.items()}


def _best(source: str, recipes: Mapping[Recipe, Mapping[int, float]]) -> Chosen:
    of_each = [frozenset(values) for values in recipes.values()]
    shared = max(of_each, key=lambda seeds: (len(seeds), of_each.count(seeds)))
    means = {
        recipe: math.fsum(values.values()) / len(values)
        for recipe, values in recipes.items()
        if values.keys() == shared
    }
    best = max(means, key=lambda recipe: means[recipe])
    others = [value for recipe, value in means.items() if recipe != best]
    return Chosen(source, best, means[best], len(shared), len(recipes) - 1, max(others, default=None))
