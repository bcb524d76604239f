"""The ratio of MTS from distilled images alone: where the masked accuracy falls to the cross-validated one."""

from __future__ import annotations

import math

import pytest

from ddcal.calibration import ratio_for_accuracy
from ddcal.calibration.mask_ratio import GRID


@pytest.mark.parametrize("target", [0.02, 0.1, 0.123, 0.5, 0.9, 0.999])
def test_a_straight_line_is_met_exactly(target) -> None:
    choice = ratio_for_accuracy(lambda ratio: 1.0 - ratio, target)
    assert choice.ratio == pytest.approx(1.0 - target, abs=1e-12)
    assert not choice.at_end and choice.target == target


@pytest.mark.parametrize("target", [0.2, 0.5, 0.93])
def test_a_curve_is_met_between_neighbours_of_the_grid_by_the_line_between_them(target) -> None:
    curve = lambda ratio: 1.0 - ratio**3  # noqa: E731
    found = ratio_for_accuracy(curve, target).ratio
    low = max(ratio for ratio in GRID if ratio <= found)
    high = min(ratio for ratio in GRID if ratio > found)
    assert curve(low) > target >= curve(high)
    share = (found - low) / (high - low)
    assert (1 - share) * curve(low) + share * curve(high) == pytest.approx(target, abs=1e-12)


@pytest.mark.parametrize(
    ("curve", "ratio"), [(lambda _: 0.9, GRID[-1]), (lambda _: 0.3, 0.0), (lambda ratio: 0.5 - ratio / 2, 0.0)]
)
def test_where_no_ratio_meets_it_the_end_is_taken_and_told(curve, ratio) -> None:
    choice = ratio_for_accuracy(curve, 0.5)
    assert (choice.ratio, choice.at_end) == (ratio, True)


def test_at_most_seven_ratios_of_the_grid_are_asked_for_and_told() -> None:
    for target in (0.01, 0.3, 0.77, 0.96):
        asked = []
        choice = ratio_for_accuracy(lambda ratio, asked=asked: asked.append(ratio) or 1.0 - ratio, target)
        assert len(asked) <= 7 and len(set(asked)) == len(asked) and set(asked) <= set(GRID)
        assert choice.looked_at == tuple((ratio, 1.0 - ratio) for ratio in asked)


def test_noise_still_ends_between_two_neighbours() -> None:
    curve = lambda ratio: 1.0 - ratio + 0.1 * math.sin(100 * ratio)  # noqa: E731
    found = ratio_for_accuracy(curve, 0.4)
    assert not found.at_end and abs(found.ratio - 0.6) < 0.15


@pytest.mark.parametrize("target", [-0.1, 1.1, math.nan])
def test_a_target_that_is_no_accuracy(target) -> None:
    with pytest.raises(ValueError, match="it must be an accuracy in"):
        ratio_for_accuracy(lambda ratio: 1.0 - ratio, target)
