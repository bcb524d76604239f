"""Means and spreads over seeds, and the curves that show them."""

import numpy as np
import pandas
import pytest

from ddcal.analysis.figures.calibration_curves import (
    ece_against_ipc,
    ece_against_ratio,
    plot_ece_against_ipc,
    plot_ece_against_ratio,
)
from ddcal.analysis.labels import REDUCED_NOTE, save_frame
from ddcal.analysis.statistics import over_seeds
from ddcal.calibration import save_figure


def test_both_spreads_by_hand():
    frame = pandas.DataFrame({"a": "x", "seed": [0, 0, 1, 1], "network": [0, 1, 0, 1], "v": [1.0, 3.0, 5.0, 9.0]})
    row = over_seeds(frame, ["a"], "v").iloc[0]
    assert row["mean"] == 4.5 and row["between_sets"] == pytest.approx(np.std([2, 7], ddof=1))
    assert row["between_networks"] == pytest.approx(np.sqrt((2 + 8) / 2))
    assert (row["sets"], row["networks"]) == (2, 4)
    sets = pandas.DataFrame({"a": "x", "seed": [0, 1], "v": [2.0, 7.0], "std": np.sqrt([2.0, 8.0]), "networks": 2})
    assert over_seeds(sets, ["a"], "v").iloc[0].tolist()[1:] == pytest.approx(row.tolist()[1:])


def test_one_run_has_no_spread():
    row = over_seeds(pandas.DataFrame({"a": ["x"], "seed": [0], "v": [0.5]}), ["a"], "v").iloc[0]
    assert row["mean"] == 0.5 and np.isnan(row["between_sets"]) and np.isnan(row["between_networks"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"v": [1.0]}, "lacks the columns seed"),
        ({"seed": [0, 0], "v": [1.0, 2.0]}, "the same run"),
        ({"seed": [0], "v": [np.nan]}, "NaN or infinite"),
        ({"seed": [0], "v": [1.0], "std": [1.0]}, "networks and std"),
    ],
)
def test_bad_frames_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        over_seeds(pandas.DataFrame({"a": "x", **columns}), ["a"], "v")


def ratios():
    base = {"dataset": "digits", "backbone": "real", "ipc": 10}
    rows = [{**base, "method": "raw", "ratio": None, "seed": s, "ece": 0.2 + s / 100} for s in range(3)]
    rows += [{**base, "method": "mts", "ratio": r, "seed": s, "ece": r / 2} for s in range(3) for r in (0.9, 0.1)]
    return pandas.DataFrame(rows)


def test_ece_against_the_ratio(tmp_path):
    curves = ece_against_ratio(ratios())
    raw = curves[curves["method"] == "raw"].iloc[0]
    assert raw["mean"] == pytest.approx(21) and raw["between_sets"] == pytest.approx(1) and raw["sets"] == 3
    figure = plot_ece_against_ratio(curves, reduced=True)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["MTS"].get_xdata()) == [0.1, 0.9] and list(lines["raw"].get_ydata()) == pytest.approx([21, 21])
    assert REDUCED_NOTE in figure.get_suptitle()
    paths = [save_figure(plot_ece_against_ratio(curves), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert REDUCED_NOTE in save_frame(curves, tmp_path / "new" / "a.csv", reduced=True).read_text()
    with pytest.raises(ValueError, match=r"ratio is 1\.5"):
        ece_against_ratio(ratios().assign(ratio=1.5))
    with pytest.raises(ValueError, match="ece is 20"):
        ece_against_ratio(ratios().assign(ece=20.0))


def test_ece_against_images_per_class():
    rows = [
        {"dataset": d, "backbone": "dsa", "method": m, "ipc": i, "seed": s, "ece": i / 100}
        for d in ("digits", "cifar10") for m in ("raw", "own method") for i in (10, 1) for s in range(2)
    ]  # fmt: skip
    curves = ece_against_ipc(pandas.DataFrame(rows))
    figure = plot_ece_against_ipc(curves)
    assert [axes.get_title() for axes in figure.axes] == ["digits, dsa", "cifar10, dsa"]
    assert all(axes.get_xscale() == "log" for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["raw", "own method"]
    with pytest.raises(ValueError, match="ipc is 0"):
        ece_against_ipc(pandas.DataFrame(rows).assign(ipc=0))
    with pytest.raises(ValueError, match="empty"):
        plot_ece_against_ipc(curves[:0])
