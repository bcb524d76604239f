"""What the pictures of a scoreboard draw of its numbers."""

import pytest
from matplotlib.colors import to_hex

from ddcal.analysis.figures.scoreboard_figures import plot_paired
from ddcal.analysis.scoreboard.measured import Measured
from ddcal.analysis.scoreboard.pictures import _point


def test_a_difference_is_filled_where_five_seeds_tell_it():
    """One seed has no interval, and that of two is no test."""
    five = {seed: 0.1 + 0.001 * seed for seed in range(5)}
    numbers = [Measured(five), Measured({0: 0.1, 1: 0.101}), Measured({0: 0.1}), Measured({})]
    figure = plot_paired(list("abcd"), [("accuracy", list(map(_point, numbers)))], title="", reduced=False)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [to_hex(mark.get_markerfacecolor()) != "#ffffff" for mark in marks] == [True, False, False]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([10.2, 10.05, 10.0])
