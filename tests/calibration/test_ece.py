"""Calibration metrics against hand-made answers, independent libraries and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from ddcal import calibration
from ddcal.calibration import expected_calibration_error, reliability_bins, score
from ddcal.config.metrics import METRICS


def sample(images: int, classes: int, temperature: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (float64) and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(logits / temperature, dim=1)
    return logits, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def two_class(confidences: list[float], correct: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities with these top-1 confidences in class 0, and the labels that make them right or wrong."""
    probabilities = np.array([[c, 1.0 - c] for c in confidences])
    return probabilities, np.array([0 if right else 1 for right in correct])


@pytest.mark.parametrize(
    ("confidences", "correct", "bins", "expected"),
    [
        # One bin: |mean confidence 0.75 - accuracy 0.5|.
        ([0.6, 0.9], [True, False], 1, 0.25),
        # 0.6 is an edge of 10 bins and belongs to [0.6, 0.7) with 0.65: |0.625 - 0.5|. A right-closed rule would put
        # it into a bin of its own: (0.4 + 0.65) / 2.
        ([0.6, 0.65], [True, False], 10, 0.125),
        # linspace would put the edge at 0.7000000000000001 and 0.7 below it; k/bins is 0.7.
        ([0.7, 0.75], [True, False], 10, 0.225),
        # 9/15 is the double 0.6: with 0.65 in [9/15, 10/15).
        ([0.6, 0.65], [True, False], 15, 0.125),
        # Confidence 1.0 joins 0.95 in the last bin: |0.975 - 0.5|.
        ([1.0, 0.95], [False, True], 10, 0.475),
        ([1.0, 1.0], [True, True], 15, 0.0),
        ([1.0, 1.0], [False, False], 15, 1.0),
        # Exactly 0.5 is a tie of both classes: the first is predicted.
        ([0.5, 0.5], [True, False], 2, 0.0),
        # Two filled bins weighted by their images: 1/3 * |0.55 - 0| + 2/3 * |0.85 - 1|.
        ([0.55, 0.82, 0.88], [False, True, True], 10, 0.55 / 3 + 0.3 / 3),
    ],
)
def test_ece_by_hand(confidences: list[float], correct: list[bool], bins: int, expected: float) -> None:
    probabilities, labels = two_class(confidences, correct)
    assert expected_calibration_error(labels=labels, bins=bins, probs=probabilities) == pytest.approx(
        expected, abs=1e-12
    )


def test_uniform_logits_sit_on_the_edge_of_their_bin() -> None:
    # Ten equal logits: confidence exactly 1/10, the left edge of bin 1 of 10; class 0 is predicted.
    bins = reliability_bins(np.zeros((4, 10)), np.array([0, 0, 1, 2]), 10)
    assert bins.counts.tolist() == [0, 4] + [0] * 8
    assert bins.accuracy[1] == 0.5
    assert bins.confidence[1] == pytest.approx(0.1, abs=1e-15)
    assert np.isnan(bins.accuracy[0]) and np.isnan(bins.confidence[0])


def test_saturated_logits_are_in_the_last_bin() -> None:
    logits = torch.tensor([[1e6, 0.0, -1e6], [0.0, 1e6, 0.0]])
    bins = reliability_bins(logits, torch.tensor([0, 2]), 15)
    assert bins.counts[-1] == 2
    assert bins.ece == pytest.approx(0.5)


def test_score_has_the_configured_metrics_and_agrees_with_the_single_functions() -> None:
    logits, labels = sample(500, 7)
    metrics = score(logits, labels, bins=12)
    assert tuple(metrics) == tuple(METRICS)
    assert all(type(value) is float for value in metrics.values())
    assert metrics == {
        "accuracy": calibration.accuracy(logits, labels),
        "ece": expected_calibration_error(logits, labels, 12),
        "ece_10": expected_calibration_error(logits, labels, 10),
        "ece_15": expected_calibration_error(logits, labels),
        "nll": calibration.negative_log_likelihood(logits, labels),
        "brier": calibration.brier_score(logits, labels),
        "classwise_ece": calibration.classwise_ece(logits, labels, 12),
        "adaptive_ece": calibration.adaptive_ece(logits, labels, 12),
        "adaptive_ece_10": calibration.adaptive_ece(logits, labels, 10),
        "adaptive_ece_15": calibration.adaptive_ece(logits, labels),
        "mce": calibration.maximum_calibration_error(logits, labels, 12),
        "smooth_ece": calibration.smooth_ece(logits, labels),
        "brier_calibration": calibration.brier_decomposition(logits, labels, 12).calibration,
        "brier_refinement": calibration.brier_decomposition(logits, labels, 12).refinement,
        "aurc": calibration.aurc(logits, labels),
    }
    assert metrics["ece"] == pytest.approx(reliability_bins(logits, labels, 12).ece, abs=1e-12)


def test_score_at_a_temperature_is_score_of_divided_logits() -> None:
    logits, labels = sample(300, 5)
    assert score(logits, labels, 2.5) == pytest.approx(score(logits / 2.5, labels), abs=1e-12)
    assert score(logits, labels, -2.5) == pytest.approx(score(-logits / 2.5, labels), abs=1e-12)


def test_score_of_probabilities_is_score_of_logits() -> None:
    logits, labels = sample(300, 5)
    of_logits = score(logits, labels, 2.0, 12)
    of_probabilities = calibration.score_probabilities(torch.softmax(logits / 2.0, dim=1), labels, 12)
    assert of_probabilities == pytest.approx(of_logits, abs=1e-12)
    assert tuple(of_probabilities) == tuple(METRICS)


def test_score_of_a_probability_of_zero_at_the_label_is_finite() -> None:
    metrics = calibration.score_probabilities(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert metrics["nll"] == pytest.approx(-np.log(1e-12) / 2)
    assert metrics["brier"] == 1.0 and metrics["ece"] == 0.5 and metrics["accuracy"] == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_independent_libraries(seed: int) -> None:
    logits, labels = sample(1000, 6, temperature=2.0, seed=seed)
    metrics, probabilities = score(logits, labels), torch.softmax(logits, dim=1)
    ece = multiclass_calibration_error(probabilities, labels, num_classes=6, n_bins=15, norm="l1")
    assert metrics["ece"] == pytest.approx(float(ece), abs=1e-6)  # torchmetrics bins in float32
    mce = multiclass_calibration_error(probabilities, labels, num_classes=6, n_bins=15, norm="max")
    assert metrics["mce"] == pytest.approx(float(mce), abs=1e-6)
    accuracy = multiclass_accuracy(logits, labels, num_classes=6, average="micro")
    assert metrics["accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
    assert metrics["nll"] == pytest.approx(log_loss(labels, probabilities.numpy()), abs=1e-12)
    brier = brier_score_loss(labels, probabilities.numpy(), scale_by_half=False)
    assert metrics["brier"] == pytest.approx(brier, abs=1e-12)


def test_classwise_ece_is_the_mean_of_two_class_gaps() -> None:
    logits, labels = sample(400, 4)
    probabilities = torch.softmax(logits, dim=1).numpy()
    gaps = []
    for one in range(4):
        index = np.minimum((probabilities[:, one] * 15).astype(int), 14)
        for number in range(15):
            inside = index == number
            if inside.any():
                gap = probabilities[inside, one].mean() - (labels.numpy()[inside] == one).mean()
                gaps.append(abs(gap) * inside.mean())
    assert calibration.classwise_ece(logits, labels) == pytest.approx(sum(gaps) / 4, abs=1e-12)


def test_adaptive_ece_by_hand() -> None:
    # Five images in two runs: the first takes the remainder, {.6 .7 .8} and {.9 .95}.
    probabilities, labels = two_class([0.9, 0.6, 0.95, 0.7, 0.8], [True, False, False, True, True])
    expected = (abs(2.1 - 2) + abs(1.85 - 1)) / 5
    assert calibration.adaptive_ece(np.log(probabilities), labels, 2) == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_does_not_depend_on_the_order_of_ties() -> None:
    # A collapsed network is calibrated: confidence 0.25 everywhere, a quarter right, though the labels are sorted.
    labels = np.repeat(np.arange(4), 50)
    assert calibration.adaptive_ece(np.zeros((200, 4)), labels) == pytest.approx(0.0, abs=1e-12)
    # Fewer images than bins: each its own bin.
    assert calibration.adaptive_ece(np.zeros((2, 2)), np.array([0, 1]), 15) == pytest.approx(0.0, abs=1e-12)


def test_calibrated_predictions_show_the_noise_floor() -> None:
    floor = calibration.ece_noise_floor(sample(2000, 5)[0], 15, torch.Generator().manual_seed(3), resamples=200)
    observed = [expected_calibration_error(*sample(2000, 5, seed=seed)) for seed in range(20)]
    assert np.mean(observed) == pytest.approx(floor, rel=0.15)
    over_confident = expected_calibration_error(*sample(2000, 5, temperature=3.0))
    assert over_confident > 5 * floor


def test_noise_floor_of_certain_predictions_is_zero_and_repeats() -> None:
    assert calibration.ece_noise_floor(np.array([[1e5, 0.0]]), 15, torch.Generator().manual_seed(0)) == 0.0
    logits, _ = sample(50, 5)
    twice = [calibration.ece_noise_floor(logits, 15, torch.Generator().manual_seed(7), 5) for _ in range(2)]
    assert twice[0] == twice[1] > 0.0


def test_input_types_give_the_same_numbers_and_are_not_written_to() -> None:
    logits, labels = sample(64, 5)
    logits = logits.float()
    before = logits.clone()
    expected = score(logits, labels)
    assert score(logits.numpy(), labels.numpy()) == expected
    assert score(logits.double(), labels.to(torch.uint8)) == expected
    assert score(logits.clone().requires_grad_(), labels.int()) == expected
    assert score(logits.bfloat16(), labels)["accuracy"] > 0.0
    assert torch.equal(logits, before)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 30), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_properties(images: int, classes: int, bins: int, temperature: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, classes)) * 10.0 ** generator.uniform(-3, 3)
    labels = generator.integers(classes, size=images)
    metrics = score(logits, labels, temperature, bins)
    assert metrics["accuracy"] == calibration.accuracy(logits, labels)  # no positive temperature changes it
    brier = ("brier", "brier_calibration", "brier_refinement")
    assert all(0.0 <= metrics[name] <= 1.0 + 1e-12 for name in METRICS if name not in ("nll", *brier))
    assert all(0.0 <= metrics[name] <= 2.0 + 1e-12 for name in brier)
    assert metrics["brier_calibration"] + metrics["brier_refinement"] == pytest.approx(metrics["brier"], abs=1e-12)
    assert metrics["ece"] <= metrics["mce"] + 1e-12
    assert metrics["nll"] >= -1e-12
    order = generator.permutation(images)
    assert score(logits[order], labels[order], temperature, bins) == pytest.approx(metrics, abs=1e-9)
    # Splitting a bin can only add to the gap.
    assert metrics["ece"] <= score(logits, labels, temperature, 2 * bins)["ece"] + 1e-12
    assert score(logits, labels, temperature, 1)["ece"] <= metrics["ece"] + 1e-12


GOOD = np.array([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        (np.array([[0.0, np.nan]]), np.array([0]), {}, r"logits\[0, 1\] is nan"),
        (np.array([[0.0, 1.0], [-np.inf, 0.0]]), np.array([0, 0]), {}, r"logits\[1, 0\] is -inf"),
        (np.zeros((0, 2)), np.zeros(0, int), {}, r"logits has shape \(0, 2\)"),
        (np.zeros((2, 0)), np.zeros(2, int), {}, r"logits has shape \(2, 0\)"),
        (np.zeros(2), np.zeros(2, int), {}, r"logits has shape \(2,\)"),
        (GOOD, np.array([0, 2]), {}, r"labels\[1\] is 2; it must be in 0..1"),
        (GOOD, np.array([-1, 0]), {}, r"labels\[0\] is -1"),
        (GOOD, np.array([0, 1, 1]), {}, r"labels has shape \(3,\)"),
        (GOOD, np.array([[0], [1]]), {}, r"labels has shape \(2, 1\)"),
        (GOOD, np.array([0.0, 1.0]), {}, "labels has dtype float64"),
        (GOOD, np.array([0, 1]), {"bins": 0}, "bins is 0"),
        (GOOD, np.array([0, 1]), {"bins": 2.5}, "bins is 2.5"),
        (GOOD, np.array([0, 1]), {"bins": True}, "bins is True"),
        (GOOD, np.array([0, 1]), {"temperature": 0.0}, "temperature is 0.0"),
        (GOOD, np.array([0, 1]), {"temperature": float("nan")}, "temperature is nan"),
        (GOOD, np.array([0, 1]), {"temperature": float("inf")}, "temperature is inf"),
    ],
)
def test_refused(logits: np.ndarray, labels: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(logits, labels, **options)
    if "temperature" not in options:
        with pytest.raises(ValueError, match=message):
            expected_calibration_error(logits, labels, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0]}, "got neither"),
        ({"logits": [[0.0]], "probs": [[1.0]], "labels": [0]}, "got both"),
        ({"logits": [[0.0]]}, "labels is None"),
        ({"probs": [[0.5, 0.6]], "labels": [0]}, r"probs\[0\] sums to 1.1"),
        ({"probs": [[1.5, -0.5]], "labels": [0]}, r"probs\[0, 0\] is 1.5"),
        ({"probs": [[np.nan, 1.0]], "labels": [0]}, r"probs\[0, 0\] is nan"),
    ],
)
def test_refused_arguments_of_ece(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(**arguments)
    if arguments.keys() == {"probs", "labels"}:
        with pytest.raises(ValueError, match=message):
            calibration.score_probabilities(**arguments)


def test_noise_floor_refuses_no_resample() -> None:
    with pytest.raises(ValueError, match="resamples is 0"):
        calibration.ece_noise_floor(GOOD, 15, torch.Generator(), 0)
