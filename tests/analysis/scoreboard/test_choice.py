"""The choice of recipes, against a search through every recipe, and what it may see of a trial."""

import dataclasses
import itertools
import random
import statistics

import pytest

from ddcal.analysis.scoreboard.choice import Chosen, ValNumber, choose

SOURCES = ["set", "experts"]


def recipe(lr, epochs):
    return (("train.lr", lr), ("train.epochs", epochs))


def drawn(seed):
    draw = random.Random(seed)
    recipes = [recipe(lr, epochs) for lr in (0.01, 0.03) for epochs in (100, 300, 1000)]
    return [ValNumber(source, one, place, draw.random()) for source in SOURCES for one in recipes for place in range(3)]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_recipe_with_the_highest_mean(seed):
    numbers = drawn(seed)
    random.Random(seed).shuffle(numbers)
    found = choose(numbers)
    assert set(found) == set(SOURCES)
    for source in SOURCES:
        means = {}
        for one in {number.recipe for number in numbers}:
            means[one] = statistics.fmean(n.value for n in numbers if n.source == source and n.recipe == one)
        first, second = sorted(means.values(), reverse=True)[:2]
        assert means[found[source].recipe] == first
        assert found[source].value == pytest.approx(first, rel=1e-15)
        assert found[source].second == pytest.approx(second, rel=1e-15)
        assert (found[source].seeds, found[source].others) == (3, 5)


def test_of_equal_recipes_the_first_is_taken():
    numbers = [ValNumber(SOURCES[0], recipe(lr, 10), 0, 0.5) for lr in (0.3, 0.1, 0.2)]
    for order in itertools.permutations(numbers):
        assert choose(order)[SOURCES[0]].recipe == order[0].recipe


def test_a_recipe_that_lacks_a_seed_is_not_compared():
    whole = [ValNumber(SOURCES[0], recipe(0.01, 10), seed, 0.4) for seed in (0, 1)]
    lucky = ValNumber(SOURCES[0], recipe(0.03, 10), 0, 0.9)
    assert choose([lucky, *whole]) == {SOURCES[0]: Chosen(SOURCES[0], whole[0].recipe, 0.4, 2, 1, None)}


def test_where_no_recipe_has_all_seeds_the_same_are_compared():
    """The first has seed 0 alone, the others seed 1: a lucky seed does not win."""
    lucky = ValNumber(SOURCES[0], recipe(0.1, 10), 0, 0.9)
    others = [ValNumber(SOURCES[0], recipe(lr, 10), 1, value) for lr, value in ((0.01, 0.4), (0.03, 0.5))]
    for order in itertools.permutations([lucky, *others]):
        assert choose(order) == {SOURCES[0]: Chosen(SOURCES[0], recipe(0.03, 10), 0.5, 1, 2, 0.4)}


def test_the_choice_is_given_numbers_of_val_alone():
    assert {field.name for field in dataclasses.fields(ValNumber)} == {"source", "recipe", "seed", "value"}
