"""Numbers a seed: means and intervals against scipy, differences over shared seeds, and what cannot be."""

import numpy as np
import pytest
from scipy import stats

from ddcal.analysis.report.cells import Run
from ddcal.analysis.scoreboard.measured import Measured, constant, derived, difference
from ddcal.analysis.scoreboard.tables import counted, written


def test_the_interval_is_that_of_a_t_test():
    values = np.random.default_rng(0).normal(0.4, 0.02, 5)
    found = Measured(dict(enumerate(values)))
    low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert found.mean == pytest.approx(values.mean()) and found.interval == pytest.approx((low, high))


def test_a_difference_is_paired_by_seed():
    draw = np.random.default_rng(1)
    level, first, second = draw.normal(0.5, 0.1, 5), draw.normal(0.01, 0.001, 5), draw.normal(0.0, 0.001, 5)
    a = Measured(dict(enumerate(level + first)) | {7: 0.9})
    b = Measured({9: 0.1} | dict(enumerate(level + second)))
    found = difference(a, b)
    test = stats.ttest_rel(level + first, level + second).confidence_interval(0.95)
    assert sorted(found.values) == [0, 1, 2, 3, 4] and found.interval == pytest.approx((test.low, test.high))
    assert found.sign == 1 and difference(b, a).sign == -1
    assert Measured({0: 0.1, 1: -0.1}).sign == 0 and Measured({0: 0.1}).sign == 0


def test_nothing_is_marked_below_five_seeds():
    """method.md, Variance: the interval of four is shown, however far it is from 0."""
    four = {seed: 0.1 + 0.001 * seed for seed in range(4)}
    assert Measured(four).interval[0] > 0.09 and (Measured(four).sign, Measured(four).testable) == (0, False)
    assert (Measured(four | {4: 0.1}).sign, Measured(four | {4: 0.1}).testable) == (1, True)


def test_an_interval_holds_nothing_that_cannot_be():
    assert Measured({0: 0.01, 1: 0.2}, low=0.0, high=1.0).interval[0] == 0.0
    assert Measured({0: 0.99, 1: 0.8}, low=0.0, high=1.0).interval[1] == 1.0
    assert Measured({0: 0.5}).interval is None and Measured({}).mean is None


def test_what_lacks_a_part_is_a_gap():
    empty = Measured({}, (), ("trial-0003 failed: boom",))
    found = derived(lambda a, b: a + b, [Measured({0: 1.0}), empty])
    assert not found.values and found.gaps == ("trial-0003 failed: boom",)
    apart = derived(lambda a, b: a + b, [Measured({0: 1.0}), Measured({1: 1.0})])
    assert apart.gaps == ("no seed has all the trials that it is made of",)
    assert constant(Measured({0: 0.2, 1: 0.4}), [3, 4]).values == pytest.approx({3: 0.3, 4: 0.3})


def test_a_difference_is_handed_on_by_the_trials_of_its_seeds_alone(made_study):
    """Seed 1 failed under the second labels: its trial under the first is no part of the difference."""
    first, second = (made_study(name, ["complete"] * 2) for name in ("first", "second"))
    for study in (first, second):
        for seed, trial in enumerate(study.records):
            trial.config_values["seed"] = seed
    runs = [[Run(study, trial) for trial in study.records] for study in (first, second)]
    both = Measured({0: 0.5, 1: 0.6}, tuple(runs[0])), Measured({0: 0.3}, (runs[1][0],), ("second-0001 failed: boom",))
    found = difference(*both)
    assert found.runs == (runs[0][0], runs[1][0]) and found.values == pytest.approx({0: 0.2})
    assert found.gaps == ("second-0001 failed: boom",)


def test_what_it_says():
    seeds = range(5)
    sets = {
        "A": Measured({seed: 0.1 + 0.001 * seed for seed in seeds}),
        "B": Measured({seed: (-1) ** seed * 0.1 for seed in seeds}),
        "C": Measured({}),
        "D": Measured({0: 0.1, 1: 0.101, 2: 0.1}),
    }
    told = "higher on 1 of 4 (A); not told apart on 1 of 4 (B)"
    few = "fewer than 5 seeds, too few for a test, on 1 of 4 (D)"
    assert counted("Soft", sets, "higher") == f"Soft: {told}; {few}; missing on 1 of 4 (C)."
    assert counted("MTS", {"A": sets["A"], "E": sets["A"]}, "lower") == "MTS: higher on all of them."
    assert counted("Soft", {"C": Measured({})}, "lower") == "Soft: not run."
    assert written(Measured({0: 0.1, 1: 0.1}), 100.0, 1, signed=True) == "+10.0 [+10.0, +10.0]"
    assert written(Measured({0: -0.0001}), 100.0, 1, signed=True) == "+0.0"
