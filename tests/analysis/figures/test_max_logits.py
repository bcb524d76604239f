"""Distributions of the maximum logit."""

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from ddcal.analysis.figures.max_logits import (
    max_logit_distributions,
    max_logits_frame,
    max_logits_summary,
    plot_max_logits,
)
from ddcal.analysis.labels import REDUCED_NOTE
from ddcal.calibration import save_figure


def logits(count=200):
    rng = np.random.default_rng(0)
    return {(n, i): rng.normal(s, s, (count, 5)) for n, s in (("FDNN", 4), ("DDNN", 1)) for i in ("plain", "masked")}


def test_by_hand():
    values = torch.tensor([[0.0, -1.0], [-5.0, 1.0], [4.0, 4.0], [0.5, 0.2]])
    (one,) = max_logit_distributions({("DDNN", "plain"): values}, bins=2)
    assert one.edges.tolist() == [0.0, 2.0, 4.0]
    assert one.density.tolist() == [0.375, 0.125]
    assert (one.count, one.mean) == (4, 1.375) and one.std == pytest.approx(np.std([0.0, 1.0, 4.0, 0.5]))


def test_common_bins_hold_every_image():
    found = max_logit_distributions(logits())
    assert all(one.edges is found[0].edges for one in found) and len(found[0].density) == 14  # the root of 200
    for one in found:
        assert (one.density * np.diff(one.edges)).sum() == pytest.approx(1)
    assert len(max_logits_frame(found)) == 4 * 14 and len(max_logits_summary(found)) == 4


def test_equal_logits_have_one_place():
    (one,) = max_logit_distributions({("DDNN", "plain"): np.ones((9, 3))})
    assert one.std == 0 and (one.density * np.diff(one.edges)).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "empty"),
        ({("DDNN", "plain"): np.ones(3)}, "logits of DDNN, plain"),
        ({("DDNN", "plain"): np.full((3, 2), np.inf)}, "NaN or infinite"),
    ],
)
def test_bad_logits_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        max_logit_distributions(values)


def test_the_figure(tmp_path):
    found = max_logit_distributions(logits())
    figure = plot_max_logits(found, reduced=True)
    assert [axes.get_title() for axes in figure.axes] == ["plain images", "masked images"]
    assert any(REDUCED_NOTE in text.get_text() for text in figure.findobj(Text))
    paths = [save_figure(plot_max_logits(found), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(ValueError, match="different bins"):
        plot_max_logits([*found, *max_logit_distributions(logits(100))])
