"""Axes on which one outlier leaves the others apart, labels that cover nothing, and colours that can be told apart."""

import itertools

import pytest

from ddcal.analysis.figures.scales import scale_of
from ddcal.analysis.figures.style import SERIES, label_points
from ddcal.analysis.labels import LOOKS
from ddcal.calibration.reliability import ACCURACY_COLOUR, OVER_COLOUR, UNDER_COLOUR


def spread(metric, values):
    """Between the values but the last, as a part of the axis."""
    scale = scale_of(metric, values)
    places = [scale.place(value) for value in values[:-1]]
    return max(places) - min(places)


GOOD = (0.030, 0.034, 0.038, 0.045, 0.052, 0.060)


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("val/ece", (*GOOD, 0.53)),
        ("val/ece", (*GOOD, 0.2)),
        ("val/ece", (*GOOD, 1e-9)),
        ("val/nll", (0.30, 0.31, 0.32, 0.33, 0.35, 1e6)),
        ("val/accuracy", (0.90, 0.91, 0.92, 0.925, 0.93, 0.1)),
        ("val/accuracy", (0.010, 0.011, 0.012, 0.013, 0.014, 0.9)),
    ],
)
def test_one_outlier_leaves_the_others_apart(metric, values):
    linear = (max(values[:-1]) - min(values[:-1])) / (max(values) - min(values))
    assert spread(metric, values) > 0.2 and spread(metric, values) > 1.3 * linear


def test_an_error_that_varies_by_factors_has_a_logarithmic_axis():
    scale = scale_of("val/ece", (0.03, 0.05, 0.1, 0.5))
    assert scale.log and scale.cut == () and scale.low < 0.03 and scale.high > 0.5
    assert scale.place(0.1) - scale.place(0.05) == pytest.approx(scale.place(0.2) - scale.place(0.1))
    assert not scale_of("val/accuracy", (0.03, 0.05, 0.1, 0.5)).log
    assert not scale_of("val/ece", (0.03, 0.05, 0.1)).log and not scale_of("val/ece", (0.0, 0.5)).log


def test_a_good_winner_is_seen_where_it_is():
    scale = scale_of("val/ece", (0.037, 0.039, 0.19, 0.19, 0.23, 0.28, 0.31, 0.33, 0.36))
    assert scale.log and scale.cut == () and scale.low < 0.037
    assert scale_of("val/ece", (0.0037, 0.0039, 0.19, 0.19, 0.23, 0.28, 0.31, 0.33, 0.36)).cut == (0.0037, 0.0039)


def test_what_is_cut_stands_at_the_end_of_its_axis():
    scale = scale_of("val/accuracy", (0.90, 0.91, 0.92, 0.925, 0.93, 0.1))
    assert scale.cut == (0.1,) and scale.shown(0.1) == scale.low and scale.place(0.1) == 0.0
    lower = scale.with_room_below(0.1)
    assert lower.cut == (0.1,) and lower.low < scale.low and lower.high == scale.high


def test_a_value_for_which_there_is_room_below_is_no_longer_cut():
    values = (0.4695, 0.474, 0.50, 0.502, 0.505, 0.508, 0.51, 0.515, 0.60)
    scale = scale_of("val/accuracy", values)
    assert 0.4695 in scale.cut and 0.60 in scale.cut
    lower = scale.with_room_below(0.1)
    assert lower.low < 0.4695 and lower.cut == (0.60,)


@pytest.mark.parametrize("values", [(), (0.5,), (0.5, 0.5), (0.0, 0.0, 0.0), (0.0, 1.0), (1e-12, 1.0, 3e5)])
def test_any_values_have_an_axis(values):
    scale = scale_of("val/ece", values)
    assert scale.low < scale.high and all(
        scale.low <= value <= scale.high for value in values if value not in scale.cut
    )
    assert scale.ticks() and all(scale.low <= tick <= scale.high for tick in scale.ticks())
    assert len(scale.ticks()) <= 11


def test_labels_cover_neither_points_nor_each_other():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    points = [(0.5, 0.5), (0.52, 0.5), (0.99, 0.99), (0.1, 0.1)]
    label_points(axes, list(zip(points, ("11", "12", "13", "14"), strict=True)), points)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 4
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    for box in boxes:
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
    label_points(axes, [((0.5, 0.5), "1234567890")] * 30, points)  # no room for most: they are left out
    assert len(axes.texts) < 20


MACHADO = {
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
}
"""What dichromats see, in linear RGB: Machado, Oliveira and Fernandes 2009, Table 1, severity 1.0."""


def lab(colour, seen=None):
    """CIE L*a*b* (D65) of #rrggbb."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    if seen is not None:
        linear = [min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear, strict=True)))) for row in MACHADO[seen]]
    xyz = [
        sum(a * b for a, b in zip(row, linear, strict=True)) / white
        for row, white in zip(
            ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)),
            (0.9505, 1.0, 1.089),
            strict=True,
        )
    ]
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("seen", [None, *MACHADO])
@pytest.mark.parametrize(
    "colours",
    [
        SERIES,
        (ACCURACY_COLOUR, OVER_COLOUR, UNDER_COLOUR),
        [LOOKS[name][0] for name in ("raw", "ts_train", "ts_holdout", "ts_cv", "ts_val", "mts", "noise_floor")],
        [LOOKS[name][0] for name in ("cross_entropy", "mixup", "label_smoothing", "focal", "mdt")],
    ],
    ids=["studies", "reliability", "calibrations", "losses"],
)
def test_colour_blind_people_tell_the_colours_apart(colours, seen):
    """A difference of 10 in L*a*b* is seen at a glance."""
    for a, b in itertools.combinations(colours, 2):
        distance = sum((p - q) ** 2 for p, q in zip(lab(a, seen), lab(b, seen), strict=True)) ** 0.5
        assert distance > 10, (a, b, distance)
