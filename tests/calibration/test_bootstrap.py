"""Bootstrap intervals: against scores of the drawn images, an independent library, and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from ddcal.calibration import bootstrap_difference, bootstrap_intervals, score, score_probabilities
from ddcal.calibration.metrics.predictions import predict, predict_from_probabilities
from ddcal.calibration.metrics.resampling import statistic
from ddcal.config.metrics import METRICS


def sample(seeds: int, images: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Over-confident logits (S, N, K) around common ones, and labels."""
    generator = torch.Generator().manual_seed(seed)
    common = 2.0 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(common, dim=1), 1, generator=generator)[:, 0]
    noise = torch.randn(seeds, images, classes, generator=generator, dtype=torch.float64)
    return 1.5 * (common + noise), labels


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_of_counts_is_the_score_of_the_drawn_images(metric: str) -> None:
    logits, labels = sample(1, 60, 4)
    generator = np.random.default_rng(0)
    tied = np.round(torch.softmax(logits[0], dim=1).numpy(), 1)  # many equal confidences, and some of 1
    tied[:, 0] += 1.0 - tied.sum(axis=1)
    tied = np.where((tied < 0.0).any(axis=1, keepdims=True), 0.25, tied)
    plain, rounded = predict(logits[0], labels, 1.0, 12, True), predict_from_probabilities(tied, labels, 12, True)
    index = generator.integers(60, size=(60, 8))
    counts = np.stack([np.bincount(column, minlength=60) for column in index.T], axis=1).astype(float)
    of_plain, of_rounded = (statistic(metric, given, 12)(counts) for given in (plain, rounded))
    for column in range(8):
        drawn = index[:, column]
        assert of_plain[column] == pytest.approx(score(logits[0][drawn], labels[drawn], bins=12)[metric], abs=1e-9)
        expected = score_probabilities(tied[drawn], labels[drawn], 12)[metric]
        assert of_rounded[column] == pytest.approx(expected, abs=1e-9)


def test_means_are_those_of_score_and_draws_do_not_depend_on_what_is_asked() -> None:
    logits, labels = sample(3, 200, 4)
    together = bootstrap_intervals(logits, labels, list(METRICS), generator=draws(), resamples=20)
    scores = [score(one, labels) for one in logits]
    for name, interval in together.items():
        assert interval.mean == pytest.approx(np.mean([one[name] for one in scores]), abs=1e-12)
        assert interval.low < interval.high
        assert interval.resampled == "seeds and images" and interval.level == 0.95
    alone = bootstrap_intervals(logits, labels, ["nll"], generator=draws(), resamples=20)
    assert alone == {"nll": together["nll"]}
    assert bootstrap_intervals(logits, labels, ["nll"], generator=draws(1), resamples=20) != alone


def test_resamples_are_the_same_however_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = sample(2, 50, 3)
    whole = bootstrap_intervals(logits, labels, generator=draws(), resamples=30)
    monkeypatch.setattr("ddcal.calibration.metrics.bootstrap.COUNTS", 350)  # seven resamples at a time
    pieces = bootstrap_intervals(logits, labels, generator=draws(), resamples=30)
    for name, interval in whole.items():
        assert (pieces[name].low, pieces[name].high) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_one_seed_is_scipys_bootstrap_of_a_mean() -> None:
    logits, labels = sample(1, 300, 4)
    found = bootstrap_intervals(logits, labels, ["nll", "accuracy"], generator=draws(), resamples=4000, level=0.9)
    of_two_dimensions = bootstrap_intervals(logits[0], labels, ["nll"], generator=draws(), resamples=4000, level=0.9)
    assert of_two_dimensions["nll"] == found["nll"]
    given = predict(logits[0], labels)
    for name, values in (("nll", given.nll), ("accuracy", given.correct.astype(float))):
        expected = scipy.stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=4000,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        width = expected.high - expected.low
        assert found[name].low == pytest.approx(expected.low, abs=0.05 * width)
        assert found[name].high == pytest.approx(expected.high, abs=0.05 * width)
        assert found[name].resampled == "images"


def test_both_levels_add_their_variance() -> None:
    # Accuracy: half of the seeds always right, half always wrong; no image matters, and a mean of 4 coins is left.
    labels = torch.zeros(40, dtype=torch.int64)
    right = torch.tensor([[5.0, 0.0]]).expand(40, 2)
    seeds = torch.stack([right, right, -right, -right])
    interval = bootstrap_intervals(seeds, labels, ["accuracy"], generator=draws(), resamples=2000)["accuracy"]
    assert (interval.low, interval.mean, interval.high) == (0.0, 0.5, 1.0)
    # Networks of one seed are averaged and not drawn: the same networks as two of one seed have nothing to vary.
    of_one_seed = torch.stack([right, -right])[None].expand(2, 2, 40, 2)
    interval = bootstrap_intervals(of_one_seed, labels, ["accuracy"], generator=draws(), resamples=50)["accuracy"]
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for trial in range(150):
        labels = (torch.rand(120, generator=draws(trial)) < 0.3).long()  # class 0 is predicted: right with 0.7
        logits = torch.tensor([[1.0, 0.0]]).expand(120, 2)
        found = bootstrap_intervals(logits, labels, ["accuracy"], generator=draws(trial + 1000), resamples=200)
        held += found["accuracy"].low <= 0.7 <= found["accuracy"].high
    assert 0.88 <= held / 150 <= 0.99


def test_a_difference_is_paired() -> None:
    logits, labels = sample(3, 200, 4)
    same = bootstrap_difference(logits, logits, labels, generator=draws(), resamples=20)
    assert all((one.mean, one.low, one.high) == (0.0, 0.0, 0.0) for one in same.values())
    calibrated = logits / 2.0
    found = bootstrap_difference(calibrated, logits, labels, ["nll", "accuracy"], generator=draws(), resamples=300)
    first, second = (bootstrap_intervals(x, labels, ["nll"], generator=draws(), resamples=300)["nll"]
                     for x in (calibrated, logits))  # fmt: skip
    assert found["nll"].mean == pytest.approx(first.mean - second.mean)
    assert found["nll"].high < 0.0, "a temperature of 2 is better on these logits"
    assert found["nll"].high - found["nll"].low < (first.high - first.low) + (second.high - second.low)
    assert (found["accuracy"].low, found["accuracy"].high) == (0.0, 0.0), "no temperature changes a prediction"


def test_probabilities() -> None:
    logits, labels = sample(2, 80, 3)
    of_logits = bootstrap_intervals(logits, labels, ["nll", "ece", "brier"], generator=draws(), resamples=10)
    probabilities = torch.softmax(logits, dim=-1)
    of_probabilities = bootstrap_intervals(
        probabilities, labels, ["nll", "ece", "brier"], generator=draws(), resamples=10, probabilities=True
    )
    for name, interval in of_logits.items():
        other = of_probabilities[name]
        assert (other.mean, other.low, other.high) == pytest.approx((interval.mean, interval.low, interval.high))


GOOD, LABELS = np.zeros((2, 4, 3)), np.zeros(4, int)


@pytest.mark.parametrize(
    ("predictions", "options", "message"),
    [
        (np.zeros(3), {}, r"predictions has shape \(3,\)"),
        (np.zeros((0, 4, 3)), {}, r"predictions has shape \(0, 4, 3\)"),
        (np.full((2, 4, 3), np.nan), {}, r"logits\[0, 0\] is nan"),
        (GOOD, {"metrics": ["eec"]}, r"metrics is \['eec'\]; it must hold names of accuracy, ece"),
        (GOOD, {"metrics": []}, r"metrics is \[\]"),
        (GOOD, {"metrics": "ece"}, "metrics is 'ece'"),
        (GOOD, {"resamples": 0}, "resamples is 0"),
        (GOOD, {"bins": 0}, "bins is 0"),
        (GOOD, {"level": 95}, "level is 95; it must be between 0 and 1"),
        (GOOD, {"probabilities": True}, r"probs\[0\] sums to 0"),
    ],
)
def test_refused(predictions: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(predictions, LABELS, **{"generator": draws(), "resamples": 2, **options})


def test_methods_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"first has shape \(2, 4, 3\) and second \(1, 4, 3\)"):
        bootstrap_difference(GOOD, GOOD[:1], LABELS, generator=draws())
