"""Temperature scaling: analytic facts, the optimum against grids and another library, the paper's solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from ddcal.calibration import CalibrationError, fit_temperature, negative_log_likelihood, score


def sample(images: int, classes: int, temperature: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (float64) and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(logits / temperature, dim=1)
    return logits, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_recovers_the_temperature_the_labels_were_drawn_at(temperature: float) -> None:
    fit = fit_temperature(*sample(100_000, 5, temperature))
    assert fit.temperature == pytest.approx(temperature, rel=0.02)
    assert not fit.at_bound


def test_two_class_optimum_in_closed_form() -> None:
    # A margin of 4, three of four right: sigmoid(4 / T) = 3/4, so T = 4 / ln 3.
    fit = fit_temperature(np.tile([4.0, 0.0], (4, 1)), np.array([0, 0, 0, 1]))
    assert fit.temperature == pytest.approx(4.0 / math.log(3.0), rel=1e-14)
    assert fit.nll == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-14)
    assert fit.draws == () and fit.masked_accuracy is None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e30])
def test_all_right_goes_to_the_lower_and_all_wrong_to_the_upper_bound(scale: float) -> None:
    logits = scale * np.eye(3)
    right = fit_temperature(logits, np.arange(3), (0.2, 7.0))
    assert (right.temperature, right.at_bound) == (0.2, True)
    wrong = fit_temperature(logits, np.array([1, 2, 0]), (0.2, 7.0))
    assert (wrong.temperature, wrong.at_bound) == (7.0, True)


@pytest.mark.parametrize(
    ("bounds", "temperature", "at_bound"),
    [((0.05, 20.0), 1.0, False), ((1.0, 20.0), 1.0, True), ((2.0, 3.0), 2.0, True), ((0.1, 0.5), 0.5, True)],
)
@pytest.mark.parametrize("logits", [np.zeros((3, 4)), np.tile([[1e8], [-2.0], [0.3]], (1, 4)), np.ones((3, 1))])
def test_flat_likelihood_gives_one_within_the_bounds(
    logits: np.ndarray, bounds: tuple[float, float], temperature: float, at_bound: bool
) -> None:
    fit = fit_temperature(logits, np.zeros(3, int), bounds)
    assert (fit.temperature, fit.at_bound) == (temperature, at_bound)
    assert fit.nll == pytest.approx(math.log(logits.shape[1]), abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**31))
def test_beats_every_temperature_of_a_dense_grid(images: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, classes)) * 10.0 ** generator.uniform(-2, 3)
    labels = generator.integers(classes, size=images)
    fit = fit_temperature(logits, labels, (0.05, 20.0))
    assert 0.05 <= fit.temperature <= 20.0
    assert fit.nll == score(logits, labels, fit.temperature)["nll"]
    best = min(negative_log_likelihood(logits, labels, one) for one in np.geomspace(0.05, 20.0, 200))
    assert fit.nll <= best * (1 + 1e-12) + 1e-12


def test_scaling_the_logits_scales_the_temperature() -> None:
    logits, labels = sample(300, 5, 2.0)
    one = fit_temperature(logits, labels).temperature
    assert fit_temperature(1e6 * logits, labels, (1.0, 1e8)).temperature == pytest.approx(1e6 * one, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=600)
    inputs = generator.normal(size=(600, 4)) + 1.5 * np.eye(4)[labels]
    network = LogisticRegression(C=1e4).fit(inputs[:40], labels[:40])
    theirs = CalibratedClassifierCV(FrozenEstimator(network), method="temperature").fit(inputs[300:], labels[300:])
    logits = network.decision_function(inputs)
    fit = fit_temperature(logits[300:], labels[300:], (1e-3, 1e3))
    ours = torch.softmax(torch.from_numpy(logits) / fit.temperature, dim=1).numpy()
    assert not fit.at_bound
    np.testing.assert_allclose(ours, theirs.predict_proba(inputs), atol=1e-4)


def test_paper_lbfgs_stops_at_about_39_percent_of_the_way() -> None:
    # Steps of 1 % of what is left, 50 times: 1 - 0.99 ** 50 = 0.395 of the way from 1.5 (method.md, MTS).
    logits, labels = sample(5000, 10, 1.8)
    optimum, paper = fit_temperature(logits, labels), fit_temperature(logits, labels, solver="paper_lbfgs")
    way = (paper.temperature - 1.5) / (optimum.temperature - 1.5)
    assert 0.3 < way < 0.5
    assert paper.nll > optimum.nll
    assert not paper.at_bound and paper.solver == "paper_lbfgs"


def test_paper_lbfgs_can_leave_the_positive_temperatures() -> None:
    # One image, right by a margin of 3.25: near 1.5 the likelihood has an inflection in T, where a quasi-Newton step
    # is huge. The fit is reported as it is, and with it every prediction turns round.
    logits, labels = np.array([[3.25, 0.0]]), np.array([0])
    fit = fit_temperature(logits, labels, solver="paper_lbfgs")
    assert fit.temperature < 0.0
    metrics = score(logits, labels, fit.temperature)
    assert metrics["nll"] == fit.nll > math.log(2.0)
    assert metrics["accuracy"] == 0.0
    assert fit_temperature(logits, labels).temperature == 0.05


def test_paper_lbfgs_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(self: torch.optim.LBFGS, closure: object) -> None:
        self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.LBFGS, "step", diverge)
    with pytest.raises(CalibrationError, match=r"paper_lbfgs.*nan"):
        fit_temperature(np.eye(3), np.arange(3), solver="paper_lbfgs")


@pytest.mark.parametrize("solver", ["bounded", "paper_lbfgs"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_global_state_and_inputs_stay(solver: str, mode: type) -> None:
    logits, labels = sample(50, 4, 2.0)
    expected = fit_temperature(logits, labels, solver=solver)
    weights = torch.ones(4, requires_grad=True, dtype=torch.float64)
    random, before = torch.get_rng_state(), logits.clone()
    with mode():
        enabled, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert fit_temperature(logits * weights, labels.clone(), solver=solver) == expected
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (enabled, inference)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(logits, before) and weights.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (0.0, 1.0)}, r"bounds is \(0.0, 1.0\)"),
        ({"bounds": (2.0, 1.0)}, r"bounds is \(2.0, 1.0\)"),
        ({"bounds": (1.0, 1.0)}, r"bounds is \(1.0, 1.0\)"),
        ({"bounds": (1.0, math.inf)}, r"bounds is \(1.0, inf\)"),
        ({"bounds": (math.nan, 2.0)}, r"bounds is \(nan, 2.0\)"),
        ({"bounds": (1.0,)}, r"bounds is \(1.0,\)"),
        ({"bounds": None}, "bounds is None"),
        ({"solver": "adam"}, "solver is 'adam'; it must be one of bounded, paper_lbfgs"),
    ],
)
def test_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(np.eye(2), np.arange(2), **options)


def test_refuses_invalid_logits() -> None:
    with pytest.raises(ValueError, match=r"logits\[0, 0\] is nan"):
        fit_temperature(np.array([[math.nan, 0.0]]), np.array([0]))


# Soft labels


def soft_sample(images: int = 60, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of another teacher, float64, some of them 0."""
    generator = torch.Generator().manual_seed(3)
    logits, noise = (torch.randn(images, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.softmax(2.0 * logits + noise, 1)
    labels[:5] = torch.eye(classes, dtype=torch.float64)
    return 3.0 * logits, labels


def test_soft_labels_have_the_least_cross_entropy() -> None:
    logits, labels = soft_sample()
    fit = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        return float(-(labels * torch.log_softmax(logits / temperature, 1)).sum(1).mean())

    grid = np.geomspace(0.05, 20.0, 2001)
    best = grid[int(np.argmin([loss(t) for t in grid]))]
    assert fit.temperature == pytest.approx(best, rel=5e-3)
    assert fit.nll == pytest.approx(loss(fit.temperature), rel=1e-12)
    inverse = torch.tensor(1.0 / fit.temperature, dtype=torch.float64, requires_grad=True)
    (-(labels * torch.log_softmax(logits * inverse, 1)).sum(1).mean()).backward()
    assert abs(float(inverse.grad)) < 1e-9, "the slope vanishes, by autograd"


def test_a_network_that_answers_at_another_temperature_is_put_right() -> None:
    logits, _ = soft_sample()
    for temperature in (0.5, 1.0, 4.0):
        fit = fit_temperature(logits, torch.softmax(logits / temperature, 1))
        assert fit.temperature == pytest.approx(temperature, rel=1e-12)


def test_rows_of_drawn_labels_agree_with_their_probabilities() -> None:
    """A row a class, as often as its label says: the classes of all of them have the soft labels' temperature."""
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]], dtype=torch.float64)
    counts = torch.tensor([[5, 3, 2], [1, 7, 2]])
    rows = logits.repeat_interleave(10, 0)
    classes = torch.cat([torch.arange(3).repeat_interleave(row) for row in counts])
    assert fit_temperature(logits, counts / 10.0).temperature == pytest.approx(
        fit_temperature(rows, classes).temperature, rel=1e-6
    )


@pytest.mark.parametrize("solver", ["bounded", "paper_lbfgs"])
def test_one_hot_labels_are_classes_to_the_bit(solver: str) -> None:
    logits, labels = sample(500, 5, 1.5)
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    assert fit_temperature(logits, one_hot, solver=solver) == fit_temperature(logits, labels, solver=solver)
    assert negative_log_likelihood(logits, one_hot, 1.7) == negative_log_likelihood(logits, labels, 1.7)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.full((3, 4), 0.3), "row 0 sums to 1.2"),
        (np.array([[0.5, 0.5, 0.0, 0.0]] * 2), r"labels has shape \(2, 4\)"),
        (np.array([[1.5, -0.5, 0.0, 0.0]] * 3), "row 0 has -0.5 for class 1"),
        (np.full((3, 4), np.nan), "must be finite"),
    ],
)
def test_bad_soft_labels_are_refused(labels: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_temperature(np.eye(3, 4), labels)
