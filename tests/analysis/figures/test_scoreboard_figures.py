"""What the pictures of a scoreboard draw of its numbers."""

from matplotlib.colors import to_hex

from ddcal.analysis.figures.scoreboard_figures import plot_paired
from ddcal.analysis.scoreboard.measured import Measured
from ddcal.analysis.scoreboard.pictures import _point


def test_a_difference_is_filled_where_its_interval_does_not_hold_0():
    """One seed has no interval, and tells nothing apart."""
    numbers = [Measured({0: 0.1, 1: 0.101}), Measured({0: -0.1, 1: 0.1}), Measured({0: 0.1}), Measured({})]
    figure = plot_paired(list("abcd"), [("accuracy", list(map(_point, numbers)))], title="", reduced=False)
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [to_hex(mark.get_markerfacecolor()) != "#ffffff" for mark in marks] == [True, False, False]
    assert [mark.get_xdata()[0] for mark in marks] == [10.05, 0.0, 10.0]
