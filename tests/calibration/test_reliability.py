"""Reliability diagrams: what is drawn, and files that repeat to the byte."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from ddcal.calibration import ReliabilityBins, plot_reliability, reliability_bins, save_figure
from ddcal.calibration.reliability import ACCURACY_COLOUR, OVER_COLOUR, SHARE_COLOUR, UNDER_COLOUR


def rows(*names: str) -> dict:
    generator = np.random.default_rng(0)
    logits, labels = 3.0 * generator.normal(size=(200, 5)), generator.integers(5, size=200)
    return {name: reliability_bins(logits / (1 + index), labels, 10) for index, name in enumerate(names)}


def colours(figure: Figure) -> Counter:
    """Facecolour → number of marks in it."""
    faces = (face for one in figure.findobj(PolyCollection) for face in one.get_facecolor())
    return Counter(to_hex(face) for face in faces)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_one_panel_a_calibration_with_its_ece() -> None:
    bins = rows("raw", "ts_train", "mts", "ts_val")
    figure = plot_reliability(bins, "digits")
    assert figure.get_size_inches()[0] * figure.dpi == 1000
    titles = [f"{name}\nECE {100 * one.ece:.1f} %" for name, one in bins.items()]
    assert [word for word in words(figure) if "ECE" in word] == titles
    assert "digits" in words(figure)
    assert len(figure.findobj(LineCollection)[1].get_segments()) == 4  # a diagonal each


def test_bars_are_the_bins_to_scale() -> None:
    """Three bins: an over-confident one, an empty one, an under-confident one with the most images."""
    nan = float("nan")
    one = ReliabilityBins(np.array([20, 0, 60]), np.array([0.3, nan, 0.8]), np.array([0.2, nan, 1.0]))
    figure = plot_reliability({"raw": one})
    assert colours(figure) == Counter(
        {ACCURACY_COLOUR: 3, OVER_COLOUR: 2, UNDER_COLOUR: 2, SHARE_COLOUR: 2}  # the legend has one each
    )
    marks = figure.findobj(PolyCollection)[0]
    spans: dict[str, list] = {}  # colour → (left, bottom, width, height) in inches
    for face, path in zip(marks.get_facecolor(), marks.get_paths(), strict=True):
        corner = path.vertices.min(0)
        spans.setdefault(to_hex(face), []).append((*corner, *(path.vertices.max(0) - corner)))
    (left, floor, width, low), (_, _, _, high) = spans[ACCURACY_COLOUR]
    unit = low / 0.2
    assert high == pytest.approx(unit)
    assert spans[OVER_COLOUR] == [pytest.approx((left, floor + 0.2 * unit, width, 0.1 * unit))]
    assert spans[UNDER_COLOUR] == [pytest.approx((left + 2 * width, floor + 0.8 * unit, width, 0.2 * unit))]
    (few, many) = spans[SHARE_COLOUR]
    assert many[3] == pytest.approx(3 * few[3]) and many[0] == pytest.approx(left + 2 * width)
    assert "80 %" in words(figure)  # the scale of the shares: 6 of 8, rounded up


@pytest.mark.parametrize(("counts", "pale"), [((9, 90), 1), ((10, 90), 0), ((99, 9901), 1), ((100, 9900), 0)])
def test_bins_that_hold_almost_no_images_are_pale(counts: tuple[int, int], pale: int) -> None:
    """Below 10 images, or 1 % of them."""
    one = ReliabilityBins(np.array(counts), np.array([0.2, 0.8]), np.array([0.1, 0.9]))
    found = colours(plot_reliability({"raw": one}))
    assert found[ACCURACY_COLOUR] == 3 - pale and found[OVER_COLOUR] == 2 - pale and found[UNDER_COLOUR] == 2
    assert len(found) == 4 + 2 * pale


def test_files_repeat_to_the_byte(tmp_path: Path) -> None:
    paths = [save_figure(plot_reliability(rows("raw")), tmp_path / "new" / name) for name in ("a.png", "b.png")]
    first, second = (path.read_bytes() for path in paths)
    assert first == second and first.startswith(b"\x89PNG")
    assert b"Software" not in first


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        plot_reliability({})


def test_importing_calibration_does_not_import_matplotlib() -> None:
    code = "import sys, ddcal.calibration; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
