"""Reliability diagrams: what is drawn, and files that repeat to the byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddcal.calibration import plot_reliability, reliability_bins, save_figure


def rows(*names: str) -> dict:
    generator = np.random.default_rng(0)
    logits, labels = 3.0 * generator.normal(size=(200, 5)), generator.integers(5, size=200)
    return {name: reliability_bins(logits / (1 + index), labels, 10) for index, name in enumerate(names)}


def test_one_panel_a_calibration_with_its_ece() -> None:
    bins = rows("raw", "ts_train", "mts", "ts_val")
    figure = plot_reliability(bins, "digits")
    assert figure.get_size_inches()[0] * figure.dpi == 1000
    upper = figure.axes[:4]
    assert [axis.get_title() for axis in upper] == [f"{name}\nECE {100 * one.ece:.1f} %" for name, one in bins.items()]
    heights = sorted(bar.get_height() for bar in figure.axes[4].patches)
    assert heights == pytest.approx(sorted(bins["raw"].counts / 200))
    assert figure.get_suptitle() == "digits"


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
