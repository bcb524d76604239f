"""Sweeps over ratios, draws and bounds: the same fits as one by one, from one forward pass an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ddcal.calibration import (
    fit_masked,
    fit_temperature,
    fit_temperatures,
    masked_logits,
    masked_temperature_scaling,
    score,
    sweep_logits,
    sweep_masks,
)

BOUNDS = [(0.05, 20.0), (1.0, 20.0), (0.05, 1.0), (2.0, 3.0)]


def stack(sets=3, images=60, classes=5, scale=1.0, seed=0):
    """Logits of several sets, more or less right each, and the labels."""
    stream = np.random.default_rng(seed)
    labels = stream.integers(0, classes, images)
    logits = scale * stream.normal(size=(sets, images, classes))
    for index in range(sets):
        logits[index, np.arange(images), labels] += scale * index
    return logits, labels


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 3.0, 30.0, 1e6])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_many_fits_are_each_fit(scale, bounds) -> None:
    logits, labels = stack(scale=scale)
    expected = [fit_temperature(one, labels, bounds).temperature for one in logits]
    assert fit_temperatures(logits, labels, bounds).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(-8, 8), st.integers(1, 4), st.integers(1, 12), st.integers(1, 6))
def test_many_fits_are_each_fit_whatever_the_logits(seed, exponent, sets, images, classes) -> None:
    logits, labels = stack(sets, images, classes, 10.0**exponent, seed)
    expected = [fit_temperature(one, labels).temperature for one in logits]
    assert fit_temperatures(logits, labels).tolist() == expected


def test_sets_without_a_temperature_do_not_disturb_the_others() -> None:
    logits, labels = stack()
    logits[1] = 7.0
    found = fit_temperatures(logits, labels)
    assert found[1] == 1.0
    assert found[[0, 2]].tolist() == [fit_temperature(one, labels).temperature for one in logits[[0, 2]]]


@pytest.mark.parametrize(
    ("logits", "labels", "bounds", "said"),
    [
        (np.zeros((3, 4)), np.zeros(3, int), (1.0, 2.0), r"logits has shape \(3, 4\); it must be \(F, M, K\)"),
        (np.zeros((0, 3, 4)), np.zeros(3, int), (1.0, 2.0), "at least one set"),
        (np.zeros((2, 3, 4)), np.full(3, 4), (1.0, 2.0), r"labels\[0\] is 4"),
        (np.full((2, 3, 4), np.nan), np.zeros(3, int), (1.0, 2.0), "is nan"),
        (np.zeros((2, 3, 4)), np.zeros(3, int), (2.0, 1.0), "0 < low < high"),
        (np.zeros((2, 3, 4)), np.zeros(2, int), (1.0, 2.0), "labels has shape"),
    ],
)
def test_bad_input_is_named(logits, labels, bounds, said) -> None:
    with pytest.raises(ValueError, match=said):
        fit_temperatures(logits, labels, bounds)


@pytest.mark.parametrize("sets", [1, 4])
def test_one_fit_moved_into_bounds_is_the_fit_within_them(sets) -> None:
    logits, labels = (torch.from_numpy(values) for values in stack(sets))
    for found, bounds in zip(sweep_logits(logits, labels, 0.3, BOUNDS), BOUNDS, strict=True):
        expected = fit_masked(logits, labels, bounds)
        assert found.temperature == pytest.approx(expected.temperature, rel=1e-12)
        assert found.draws == pytest.approx(expected.draws, rel=1e-12)
        assert (found.at_bound, found.masked_accuracy) == (expected.at_bound, expected.masked_accuracy)
        assert (found.ratio, found.bounds, found.metrics) == (0.3, bounds, {})


@pytest.mark.parametrize("bounds", [(0.05, 20.0), (2.0, 3.0), (0.1, 0.5)])
def test_flat_logits_are_as_fit_masked_has_them_whatever_the_other_bounds(bounds) -> None:
    logits, labels = torch.zeros(2, 6, 3), torch.arange(6) % 3
    found = sweep_logits(logits, labels, 0.9, [(0.2, 0.4), bounds, (4.0, 5.0)])[1]
    expected = fit_masked(logits, labels, bounds)
    assert (found.temperature, found.draws, found.at_bound) == (
        expected.temperature,
        expected.draws,
        expected.at_bound,
    )


def test_no_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="bounds is empty"):
        sweep_logits(torch.zeros(1, 2, 2), torch.arange(2), 0.5, [])


class Counting(nn.Module):
    """A fixed linear network that counts the images that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 6 * 6, 4)
        self.seen = 0
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(4, 108, generator=torch.Generator().manual_seed(1)))
            self.linear.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.linear(images.flatten(1))


@pytest.fixture
def images():
    stream = torch.Generator().manual_seed(2)
    return torch.randn(40, 3, 6, 6, generator=stream), torch.arange(40) % 4


def test_a_sweep_is_masked_temperature_scaling_and_predicts_once_a_ratio_and_draw(images) -> None:
    network, ratios, bounds = Counting(), [0.0, 0.3, 0.9], [(1.0, 20.0), (0.05, 20.0), (0.05, 2.0)]
    found = sweep_masks(lambda r: masked_logits(network, *images, r, 3, 5, "pixel"), ratios, bounds=bounds)
    assert network.seen == 40 * (1 + 3 + 3)  # nothing is masked at ratio 0: one draw is all of them
    assert [(fit.ratio, fit.bounds) for fit in found] == [(ratio, pair) for ratio in ratios for pair in bounds]
    for fit in found:
        one = masked_temperature_scaling(network, *images, fit.ratio, fit.bounds, 3, 5, unit="pixel")
        assert fit.temperature == pytest.approx(one.temperature, rel=1e-12)
        assert fit.draws == pytest.approx(one.draws, rel=1e-12)
        assert (fit.at_bound, fit.masked_accuracy) == (one.at_bound, one.masked_accuracy)


def test_logits_of_test_images_are_scored_at_every_temperature() -> None:
    logits, labels = stack(1)[0][0], stack(1)[1]
    found = sweep_masks(
        lambda ratio: stack(2, scale=1.0 - ratio), [0.2, 0.8], scored={"test": (logits, labels)}, bins=7
    )
    assert len({fit.temperature for fit in found}) == 2
    for fit in found:
        assert fit.metrics == {f"test/{k}": v for k, v in score(logits, labels, fit.temperature, 7).items()}


def test_masks_of_one_draw_grow_with_the_ratio(images) -> None:
    """The same uniform numbers decide: what a smaller ratio masks a larger one masks too."""
    kept = []
    for ratio in (0.2, 0.5, 0.8):
        seen = []
        network = Counting()
        network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0] != 0))
        masked_logits(network, *images, ratio, 1, 0)
        kept.append(torch.cat(seen))
    assert bool((kept[0] >= kept[1]).all()) and bool((kept[1] >= kept[2]).all())
    assert kept[0].sum() > kept[1].sum() > kept[2].sum()


def test_a_sweep_on_soft_labels_is_each_fit() -> None:
    logits, labels = (torch.from_numpy(part) for part in stack())
    soft = 0.8 * torch.nn.functional.one_hot(labels, 5).double() + 0.04
    expected = fit_masked(logits, soft, (0.05, 20.0))
    (found,) = sweep_logits(logits, soft, 0.5, [(0.05, 20.0)])
    assert (found.temperature, found.draws) == (expected.temperature, expected.draws)
    assert found.masked_accuracy == expected.masked_accuracy
    assert fit_temperatures(logits, soft).tolist() == [fit_temperature(one, soft).temperature for one in logits]
    assert sweep_logits(logits, torch.eye(5)[labels], 0.5) == sweep_logits(logits, labels, 0.5)
