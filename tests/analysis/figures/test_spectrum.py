"""Singular values of images: analytic facts, and agreement with numpy."""

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from ddcal.analysis.figures import spectrum as module
from ddcal.analysis.figures.per_class import common_count, first_per_class
from ddcal.analysis.figures.spectrum import plot_spectra, singular_values, spectrum, spectrum_frame, spectrum_summary
from ddcal.analysis.labels import REDUCED_NOTE
from ddcal.calibration import save_figure


def noise(count, side=8, seed=0):
    return torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_orthogonal_images_of_one_norm_are_even():
    found = spectrum(3.0 * torch.eye(16)[:10].reshape(10, 1, 4, 4), "even")
    assert found.cumulative == pytest.approx(np.arange(1, 11) / 10)
    assert found.area == pytest.approx(0.5) and found.effective_rank == pytest.approx(10)
    assert (found.rank_bound, found.bounded_by) == (10, "images")


def test_identical_images_have_one_direction():
    found = spectrum(noise(1).repeat(20, 1, 1, 1), "one")
    assert found.cumulative == pytest.approx(np.ones(20))
    assert found.area == pytest.approx(1 - 1 / 40) and found.effective_rank == pytest.approx(1)


def test_order_and_scale_change_nothing():
    images = noise(30)
    one, other = spectrum(images, "a"), spectrum(7.0 * images.flip(0), "a")
    assert other.cumulative == pytest.approx(one.cumulative) and other.area == pytest.approx(one.area)


@pytest.mark.parametrize("count", [30, 100], ids=["wide", "tall"])
def test_both_ways_agree_with_numpy(count, monkeypatch):
    images = noise(count)
    expected = np.linalg.svd(images.flatten(1).double().numpy(), compute_uv=False)
    assert singular_values(images) == pytest.approx(expected)
    monkeypatch.setattr(module, "SVD_ELEMENTS", 0)
    monkeypatch.setattr(module, "GRAM_ROWS", 7)
    assert singular_values(images) == pytest.approx(expected)


def test_area_and_rank_by_hand():
    images = torch.diag(torch.tensor([3.0, 1.0])).reshape(2, 1, 1, 2)
    found = spectrum(images, "two")
    assert found.cumulative == pytest.approx([0.75, 1.0])
    assert found.area == pytest.approx(0.5 * 0.75 / 2 + 0.5 * (0.75 + 1.0) / 2)
    assert found.effective_rank == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))


def test_bases_bound_the_rank():
    decoded = (torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) @ noise(3).flatten(1)).view(40, 1, 8, 8)
    found = spectrum(decoded, "rtp", bases=3)
    assert (found.rank_bound, found.bounded_by) == (3, "bases") and found.effective_rank <= 3
    assert spectrum_summary([found]).loc[0, "bounded_by"] == "bases"
    assert spectrum(noise(2), "rtp", bases=3).bounded_by == "images"
    assert spectrum(noise(70), "x").bounded_by == "pixels"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 2, 2), "all images are zero"),
        (torch.zeros(2, 4), r"expected float \(N, C, H, W\)"),
        (torch.full((2, 1, 2, 2), float("nan")), "NaN"),
        (torch.ones(2, 1, 2, 2, dtype=torch.int64), "int64"),
    ],
)
def test_what_has_no_spectrum_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        spectrum(images, "bad")


def test_too_large_a_matrix_is_refused(monkeypatch):
    monkeypatch.setattr(module, "LARGEST_SIDE", 9)
    with pytest.raises(ValueError, match="take fewer images"):
        singular_values(noise(10))


def test_the_figure(tmp_path):
    spectra = [spectrum(noise(20), "dsa"), spectrum(noise(20, seed=1), "dsa", masked=True)]
    figure = plot_spectra(spectra, title="digits", reduced=True)
    solid, dashed, _ = figure.axes[0].lines
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--") and solid.get_color() == dashed.get_color()
    assert any(REDUCED_NOTE in text.get_text() for text in figure.findobj(Text))
    paths = [save_figure(plot_spectra(spectra), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(spectrum_frame(spectra)) == 40
    with pytest.raises(ValueError, match="equal numbers"):
        plot_spectra([spectra[0], spectrum(noise(10), "dm")])
    with pytest.raises(ValueError, match="empty"):
        plot_spectra([])


def test_the_first_images_of_every_class():
    labels = torch.tensor([1, 0, 1, 0, 1, 2, 2])
    assert first_per_class(labels, 2).tolist() == [1, 3, 0, 2, 5, 6]
    assert first_per_class(labels, 1, classes=2).tolist() == [1, 0]
    assert common_count([labels, torch.tensor([0, 0, 0, 1, 1, 1])]) == 2
    with pytest.raises(ValueError, match="class 0 has 2 images; 3"):
        first_per_class(labels, 3)
    with pytest.raises(ValueError, match="no sets"):
        common_count([])
