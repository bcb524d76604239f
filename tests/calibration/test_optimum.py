"""The solver of temperature fits: its derivatives, a bracketing root finder as the oracle, ends, blocks and samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from ddcal.calibration import fit_temperature, negative_log_likelihood
from ddcal.calibration.metrics import predictions
from ddcal.calibration.optimum import STEPS, LikelihoodSlopes, optimal_temperature, root_within


def sample(images: int, classes: int, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (float64) and labels drawn from their softmax at T = 2, times a scale."""
    generator = np.random.default_rng(seed)
    logits = 4.0 * generator.normal(size=(images, classes))
    labels = (logits / 2.0 + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return scale * logits, labels


def oracle(logits: np.ndarray, labels: np.ndarray, low: float, high: float) -> float:
    """The temperature of Brent's method on the slope in 1/T, which is written down once more."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    at_label = shifted[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        weights = np.exp(inverse * shifted)
        return float(((weights * shifted).sum(axis=1) / weights.sum(axis=1)).mean() - at_label)

    if not shifted.any():
        return min(max(1.0, low), high)
    if slope(1.0 / low) <= 0.0:
        return low
    if slope(1.0 / high) >= 0.0:
        return high
    return float(1.0 / brentq(slope, 1.0 / high, 1.0 / low, xtol=1e-300, rtol=1e-15))


@pytest.mark.parametrize("inverse", [0.05, 0.4, 1.0, 3.0])
def test_slopes_against_finite_differences(inverse: float) -> None:
    logits, labels = sample(200, 6)
    slopes, step = LikelihoodSlopes(logits, labels), 1e-5
    value, slope, bend = slopes(inverse)
    above, below = (negative_log_likelihood(logits, labels, 1.0 / (inverse + sign * step)) for sign in (1, -1))
    assert value == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-8)
    after, before = slopes(inverse + step), slopes(inverse - step)
    assert slope == pytest.approx((after[0] - before[0]) / (2 * step), rel=1e-6)
    assert bend == pytest.approx((after[1] - before[1]) / (2 * step), rel=1e-6)


def test_slopes_by_hand() -> None:
    # Two classes, a margin of 4: with p the sigmoid of 4x, the slope is 4 (1 - p) wrong, the variance 16 p (1 - p).
    value, slope, bend = LikelihoodSlopes(np.array([[4.0, 0.0]]), np.array([1]))(0.25)
    p = 1.0 / (1.0 + math.exp(-1.0))
    assert value == pytest.approx(4.0 * p, rel=1e-15)
    assert slope == pytest.approx(16.0 * p * (1.0 - p), rel=1e-14)
    assert bend == pytest.approx(64.0 * p * (1.0 - p) * (1.0 - 2.0 * p), rel=1e-14)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.floats(-8, 8), st.integers(1, 40), st.integers(1, 6), st.booleans())
def test_agrees_with_brent(seed: int, exponent: float, images: int, classes: int, drawn: bool) -> None:
    logits, labels = sample(images, classes, 10.0**exponent, seed)
    if not drawn:
        labels = np.random.default_rng(seed).integers(classes, size=images)
    # Where one image decides, the slope at the root may be nearly flat: what it cannot tell, no solver can.
    for low, high in ((0.05, 20.0), (1.0, 20.0), (1e-9, 1e9)):
        found, expected = optimal_temperature(logits, labels, low, high), oracle(logits, labels, low, high)
        if found != expected:
            value, slope, _ = LikelihoodSlopes(logits, labels)(1.0 / expected)
            noise = 1e-15 * np.abs(logits - logits.max(axis=1, keepdims=True)).mean() / max(slope, 1e-300)
            assert abs(1.0 / found - 1.0 / expected) <= 1e-12 / expected + 4.0 * (noise + abs(value) / slope)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6, 1e30, 1e120])
def test_scaled_logits_have_a_scaled_temperature_in_few_passes(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sample(2000, 10)
    expected = oracle(logits, labels, 0.05, 20.0)
    calls = []
    original = LikelihoodSlopes.__call__
    monkeypatch.setattr(LikelihoodSlopes, "__call__", lambda self, at: calls.append(at) or original(self, at))
    found = optimal_temperature(scale * logits, labels, 0.05 * scale, 20.0 * scale)
    assert found == pytest.approx(scale * expected, rel=1e-13)
    assert len(calls) <= (6 if scale < 1e100 else 70)  # the cube of 1e120 overflows: bisection


def test_ends_are_tried_only_when_the_root_may_lie_beyond() -> None:
    asked: list[float] = []

    def line(at: float) -> tuple[float, float, float]:
        asked.append(at)
        return at - 3.0, 1.0, 0.0

    assert root_within(line, 0.1, 10.0, 1.0) == 3.0 and asked == [1.0, 3.0]
    asked.clear()
    assert root_within(line, 0.1, 2.0, 1.0) == 2.0 and asked == [1.0, 2.0]
    asked.clear()
    assert root_within(line, 4.0, 9.0, 9.0) == 4.0 and asked == [9.0, 4.0]
    assert root_within(line, 3.0, 9.0, 9.0) == 3.0 and root_within(line, 1.0, 3.0, 1.0) == 3.0


@pytest.mark.parametrize("root", [1e-3, 0.7, 50.0, 999.0])
def test_root_of_functions_that_mislead_newton(root: float) -> None:
    def ask(function):
        calls = []
        found = root_within(lambda at: calls.append(at) or function(at), 1e-6, 1e6, 1.0)
        assert len(calls) < STEPS
        return found

    assert ask(lambda at: (math.atan(1e4 * (at - root)), 0.0, 0.0)) == pytest.approx(root, rel=1e-15)
    assert ask(lambda at: (math.copysign(1.0, at - root), math.nan, 1.0)) == pytest.approx(root, rel=1e-15)
    cube = lambda at: ((at - root) ** 3, 3 * (at - root) ** 2, 6 * (at - root))  # noqa: E731
    assert ask(cube) == pytest.approx(root, rel=1e-5)  # a triple root is no likelihood's
    flat = lambda at: (max(at - root, 0.0), float(at > root), 0.0)  # noqa: E731
    assert ask(flat) == pytest.approx(root, rel=1e-15)  # 0 along a stretch: its right end


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_and_samples_give_the_fit_of_one_piece(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sample(1001, 7)
    logits = logits.astype(dtype)
    whole = optimal_temperature(logits, labels, 0.05, 20.0)
    assert whole == pytest.approx(oracle(logits.astype(np.float64), labels, 0.05, 20.0), rel=1e-13)
    for block in (3000, 400, 1):  # three blocks; many, by a sample; an image at a time
        monkeypatch.setattr(predictions, "BLOCK", block)
        assert optimal_temperature(logits, labels, 0.05, 20.0) == pytest.approx(whole, rel=1e-13)
        assert optimal_temperature(logits, labels, 3.0, 20.0) == 3.0
        assert optimal_temperature(logits, labels, 0.05, 1.5) == 1.5


def test_a_sample_that_misleads_costs_passes_and_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "BLOCK", 70)
    logits, labels = sample(1000, 7)
    expected = oracle(logits, labels, 0.05, 20.0)
    logits[::25] = 0.0  # all of the sample: it has no temperature
    without = np.arange(1000) % 25 != 0
    assert oracle(logits[without], labels[without], 0.05, 20.0) == pytest.approx(expected, rel=0.1)
    found = optimal_temperature(logits, labels, 0.05, 20.0)
    assert found == pytest.approx(oracle(logits, labels, 0.05, 20.0), rel=1e-13)


def test_float32_float64_and_other_layouts_give_the_same_bits() -> None:
    logits, labels = sample(300, 5)
    single = logits.astype(np.float32)
    expected = fit_temperature(single, labels)
    assert fit_temperature(single.astype(np.float64), labels) == expected
    assert fit_temperature(np.asfortranarray(single), labels) == expected
    assert fit_temperature(torch.from_numpy(single), torch.from_numpy(labels)) == expected
    half = torch.from_numpy(logits).bfloat16()
    assert fit_temperature(half, labels) == fit_temperature(half.float(), labels)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "BLOCK", 700)
    logits, labels = sample(5000, 7)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(fit_temperature(logits, labels))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
