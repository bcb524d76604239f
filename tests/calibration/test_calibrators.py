"""The calibrators behind one protocol: analytic facts, brute-force optima, other libraries, and the files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax
from sklearn.isotonic import IsotonicRegression

from ddcal.calibration import (
    DirichletCalibration,
    EnsembleTemperatureScaling,
    HistogramBinning,
    IsotonicCalibration,
    MatrixScaling,
    StructuredMatrixScaling,
    StructuredVectorScaling,
    TemperatureScaling,
    VectorScaling,
    accuracy,
    fit_temperature,
    load_calibrator,
    negative_log_likelihood,
    score,
    score_probabilities,
)
from ddcal.calibration.calibrator import shipped
from ddcal.calibration.ensemble_scaling import MOST_UNIFORM

AFFINE = (StructuredVectorScaling, StructuredMatrixScaling, MatrixScaling, DirichletCalibration)
ALL = (
    *(TemperatureScaling, VectorScaling, *AFFINE),
    *(EnsembleTemperatureScaling, IsotonicCalibration, HistogramBinning),
)
NAMES = [kind.name for kind in ALL]


def sample(images: int = 2000, classes: int = 4, temperature: float = 2.0, seed: int = 0):
    """Logits (float32) and labels drawn from softmax(logits / temperature): overconfident by that factor."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(torch.softmax(logits.double() / temperature, dim=1), 1, generator=generator)[:, 0]
    return logits, labels


def nll(probabilities, labels) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), np.asarray(labels)]).mean())


def test_every_calibrator_has_a_home() -> None:
    assert list(shipped()) == NAMES


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_rows_are_distributions_and_the_fit_generalises(kind) -> None:
    calibrator = kind().fit(*sample())
    logits, labels = sample(seed=1)
    found = calibrator.probabilities(logits)
    assert found.dtype == np.float64 and found.shape == (2000, 4)
    assert (found > 0.0).all() and np.abs(found.sum(axis=1) - 1.0).max() < 1e-12
    raw, after = score(logits, labels), score_probabilities(found, labels)
    assert after["ece"] < 0.5 * raw["ece"] and after["nll"] < raw["nll"] - 0.1


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_a_loaded_calibrator_answers_to_the_bit(kind, tmp_path) -> None:
    logits, labels = sample()
    calibrator = kind().fit(logits, labels)
    calibrator.save(tmp_path / "kept")
    loaded = load_calibrator(tmp_path / "kept")
    assert type(loaded) is kind and loaded.facts() == calibrator.facts()
    assert np.array_equal(loaded.probabilities(logits), calibrator.probabilities(logits))
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"calibrator.json", "calibrator.safetensors"}


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_numpy_and_torch_are_one(kind) -> None:
    logits, labels = sample(200)
    found = kind().fit(logits, labels).probabilities(logits)
    assert np.array_equal(kind().fit(logits.numpy(), labels.numpy()).probabilities(logits.numpy()), found)


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_what_cannot_be_fitted_or_asked_is_named(kind, tmp_path) -> None:
    logits, labels = sample(50)
    for ask in (lambda: kind().probabilities(logits), lambda: kind().save(tmp_path / "unfitted")):
        with pytest.raises(ValueError, match="has no parameters yet: call fit"):
            ask()
    with pytest.raises(ValueError, match=r"labels\[0\] is 9; it must be in 0..3"):
        kind().fit(logits, torch.full((50,), 9))
    with pytest.raises(ValueError, match=r"logits\[0, 0\] is nan"):
        kind().fit(logits * math.nan, labels)
    with pytest.raises(ValueError, match="every value must be finite"):
        kind().fit(logits, labels).probabilities(logits * math.inf)


@pytest.mark.parametrize("kind", [VectorScaling, *AFFINE, IsotonicCalibration, HistogramBinning])
def test_another_number_of_classes_is_refused(kind) -> None:
    with pytest.raises(ValueError, match=r"logits has 3 classes; this .* was fitted on 4"):
        kind().fit(*sample(50)).probabilities(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "calibrator.json").unlink(), "is not a calibrator's folder: FileNotFoundError"),
        (
            lambda folder: (folder / "calibrator.json").write_text("{"),
            "is not a calibrator's folder: Untrusted: is not JSON",
        ),
        (lambda folder: (folder / "calibrator.json").write_text("{}"), "is not a calibrator's folder: KeyError"),
        (lambda folder: (folder / "calibrator.safetensors").write_bytes(b"x"), "is not a calibrator's folder: Safe"),
        (lambda folder: rewrite(folder, name="platt"), "name is 'platt'; it must be one of temperature, vector"),
        (lambda folder: rewrite(folder, format_version=9), "format_version is 9, this ddcal reads 1"),
    ],
)
def test_a_folder_that_holds_no_calibrator(change, said, tmp_path) -> None:
    VectorScaling().fit(*sample(20)).save(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_calibrator(tmp_path)


def rewrite(folder, **values) -> None:
    path = folder / "calibrator.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Temperature


@pytest.mark.parametrize("solver", ["bounded", "paper_lbfgs"])
def test_temperature_scaling_is_fit_temperature(solver) -> None:
    logits, labels = sample()
    calibrator = TemperatureScaling((0.1, 9.0), solver).fit(logits, labels)
    assert calibrator.temperature == fit_temperature(logits, labels, (0.1, 9.0), solver).temperature
    assert nll(calibrator.probabilities(logits), labels) == pytest.approx(
        negative_log_likelihood(logits, labels, calibrator.temperature), abs=1e-12
    )


@pytest.mark.parametrize("kind", [TemperatureScaling, EnsembleTemperatureScaling])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 30.0])
def test_the_accuracy_is_kept(kind, scale, temperature) -> None:
    logits, labels = sample(500, 10, temperature)
    calibrator = kind().fit(logits * scale, labels)
    assert calibrator.keeps_accuracy
    assert score_probabilities(calibrator.probabilities(logits * scale), labels)["accuracy"] == accuracy(logits, labels)


def test_a_negative_temperature_turns_the_order_round() -> None:
    calibrator = TemperatureScaling(temperature=-2.0)
    assert not calibrator.keeps_accuracy
    assert np.allclose(calibrator.probabilities([[2.0, 0.0]]), scipy_softmax([[-1.0, 0.0]], axis=1), atol=1e-15)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TemperatureScaling((2.0, 1.0)), "0 < low < high"),
        (lambda: TemperatureScaling(solver="adam"), "solver is 'adam'"),
        (lambda: EnsembleTemperatureScaling((0.0, 1.0)), "0 < low < high"),
        (lambda: VectorScaling(-1.0), "ridge is -1.0; it must be a finite number of at least 0"),
        (lambda: HistogramBinning(0), "bins is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# Vector scaling


def brute_force_vector(logits, labels, ridge):
    """The same optimum by another optimiser and another language of derivatives."""
    scores, classes = logits.double(), labels
    start = torch.cat([torch.ones(scores.shape[1]), torch.zeros(scores.shape[1])]).double()
    values = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [values], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        scale, shift = values.chunk(2)
        loss = torch.nn.functional.cross_entropy(scores * scale + shift, classes)
        loss = loss + 0.5 * ridge * ((values - start) ** 2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return [part.detach().numpy() for part in values.chunk(2)]


@pytest.mark.parametrize(("classes", "ridge"), [(2, 1e-6), (4, 1e-6), (10, 1e-2)])
def test_vector_scaling_is_the_optimum_of_another_optimiser(classes, ridge) -> None:
    logits, labels = sample(600, classes)
    logits[:, 0] += 2.0  # something to shift back
    calibrator = VectorScaling(ridge).fit(logits, labels)
    scale, shift = brute_force_vector(logits, labels, ridge)
    expected = scipy_softmax(logits.double().numpy() * scale + shift, axis=1)
    assert np.abs(calibrator.probabilities(logits) - expected).max() < 1e-6
    assert calibrator.nll == pytest.approx(nll(expected, labels), abs=1e-9)


def test_vector_scaling_predicts_every_class_as_often_as_it_comes() -> None:
    """The likelihood does not change with the shift of a class exactly where that is so."""
    logits, labels = sample(3000, 5)
    found = VectorScaling(0.0).fit(logits + torch.tensor([3.0, 0.0, -1.0, 0.0, 1.0]), labels)
    logits = logits + torch.tensor([3.0, 0.0, -1.0, 0.0, 1.0])
    shares = torch.bincount(labels).numpy() / len(labels)
    assert np.abs(found.probabilities(logits).mean(axis=0) - shares).max() < 1e-6


def test_vector_scaling_of_one_scale_and_no_shift_is_temperature_scaling_and_never_worse() -> None:
    logits, labels = sample()
    fit = fit_temperature(logits, labels)
    assert VectorScaling().fit(logits, labels).nll <= fit.nll
    same = VectorScaling(scale=np.full(4, 1.0 / fit.temperature), shift=np.zeros(4))
    scaled = TemperatureScaling(temperature=fit.temperature).probabilities(logits)
    assert np.abs(same.probabilities(logits) - scaled).max() < 1e-12


def test_vector_scaling_of_images_that_are_all_right_ends_at_finite_numbers() -> None:
    found = VectorScaling().fit(10.0 * np.eye(3), np.arange(3))
    assert np.isfinite(found.scale).all() and np.isfinite(found.shift).all() and found.nll < 1e-4


# Ensemble temperature scaling


def ensemble_nll(logits, labels, temperature, weights) -> float:
    probabilities = [np.exp(log_softmax(logits.double().numpy() / t, axis=1)) for t in (temperature, 1.0)]
    mixed = weights[0] * probabilities[0] + weights[1] * probabilities[1] + weights[2] / logits.shape[1]
    return nll(mixed, labels)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("noisy", [0.0, 0.2])
def test_ensemble_weights_beat_every_point_of_a_grid_over_the_simplex(temperature, noisy) -> None:
    logits, labels = sample(1000, 5, temperature)
    chosen = torch.rand(1000, generator=torch.Generator().manual_seed(3)) < noisy
    labels = torch.where(chosen, torch.randint(5, (1000,), generator=torch.Generator().manual_seed(4)), labels)
    found = EnsembleTemperatureScaling().fit(logits, labels)
    assert found.temperature == fit_temperature(logits, labels).temperature
    assert min(found.weights) >= 0.0 and sum(found.weights) == pytest.approx(1.0, abs=1e-12)
    assert found.nll == pytest.approx(ensemble_nll(logits, labels, found.temperature, found.weights), abs=1e-12)
    steps = range(26)
    grid = [
        ensemble_nll(logits, labels, found.temperature, (a / 25, b / 25, max(0.0, 1.0 - (a + b) / 25)))
        for a in steps
        for b in steps
        if a + b <= 25 and not (a == b == 0)
    ]
    assert found.nll <= min(grid) + 1e-9
    assert found.nll <= fit_temperature(logits, labels).nll + 1e-12  # weights (1, 0, 0)


def test_the_uniform_part_finds_labels_that_are_noise() -> None:
    """A third of the labels is drawn at random, the rest by the logits themselves: weights (·, ·, 1/3)."""
    logits, labels = sample(40_000, 5, 1.0)
    stream = torch.Generator().manual_seed(5)
    chosen = torch.rand(len(labels), generator=stream) < 1 / 3
    labels = torch.where(chosen, torch.randint(5, labels.shape, generator=stream), labels)
    found = EnsembleTemperatureScaling().fit(logits, labels)
    assert found.weights[2] == pytest.approx(1 / 3, abs=0.03)


def test_labels_without_any_sense_leave_the_order_of_the_classes() -> None:
    logits, labels = sample(3000, 5)
    found = EnsembleTemperatureScaling((1.0, 2.0)).fit(10.0 * logits, (labels + 1) % 5)
    assert found.weights[2] == MOST_UNIFORM
    assert np.array_equal(found.probabilities(logits).argmax(axis=1), logits.numpy().argmax(axis=1))


# Isotonic regression


def test_isotonic_functions_are_those_of_scikit_learn() -> None:
    logits, labels = sample(800)
    calibrator = IsotonicCalibration().fit(logits, labels)
    fresh = torch.cat([sample(500, seed=7)[0], torch.tensor([[90.0, 0, 0, 0], [-90.0, 0, 0, 0]])])
    before, at = (scipy_softmax(values.double().numpy(), axis=1) for values in (logits, fresh))
    columns = [
        IsotonicRegression(out_of_bounds="clip").fit(before[:, k], labels == k).predict(at[:, k]) for k in range(4)
    ]
    expected = np.clip(np.stack(columns, axis=1), 1 / 802, 801 / 802)
    assert np.abs(calibrator.probabilities(fresh) - expected / expected.sum(axis=1, keepdims=True)).max() < 1e-12


def test_isotonic_regression_by_hand() -> None:
    """Two classes; of class 0 the probabilities rise image by image, and the labels 0 1 0 1 1 pool the middle two."""
    margins = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    logits, labels = np.stack([margins, np.zeros(5)], axis=1), np.array([1, 0, 1, 0, 0])
    found = IsotonicCalibration().fit(logits, labels).probabilities(logits)
    assert np.allclose(found[:, 0], [1 / 7, 0.5, 0.5, 6 / 7, 6 / 7], atol=1e-12)


# Histogram binning


def test_histogram_binning_by_hand() -> None:
    """Two bins of two classes: of four images with p₀ below a half three are of class 1; the one above is not."""
    p0 = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    logits, labels = np.log(np.stack([p0, 1 - p0], axis=1)), np.array([1, 1, 1, 0, 0])
    calibrator = HistogramBinning(bins=2).fit(logits, labels)
    assert np.allclose(calibrator.values, [[1 / 4, 1.0], [0.0, 3 / 4]], atol=1e-15)
    low, high = 1 / 7, 6 / 7  # what five images can speak for
    assert np.allclose(calibrator.probabilities(logits)[:4, 0], 0.25, atol=1e-15)
    assert calibrator.probabilities(logits)[4, 0] == pytest.approx(high / (high + low), abs=1e-15)


def test_an_empty_bin_answers_its_middle() -> None:
    calibrator = HistogramBinning(bins=4).fit(np.log([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    assert np.allclose(calibrator.values, [[0.125, 0.375, 0.625, 0.5], [0.5, 0.375, 0.625, 0.875]])
    assert np.allclose(calibrator.probabilities(np.log([[0.3, 0.7]])), [[0.375, 0.625]], atol=1e-15)


# What is known beforehand


@pytest.mark.parametrize("kind", [TemperatureScaling, VectorScaling, EnsembleTemperatureScaling])
def test_calibrated_logits_stay_as_they_are(kind) -> None:
    logits, labels = sample(50_000, 5, temperature=1.0)
    found = kind().fit(logits, labels).probabilities(logits)
    assert np.abs(found - scipy_softmax(logits.double().numpy(), axis=1)).max() < 0.04


@pytest.mark.parametrize("kind", ALL, ids=NAMES)
def test_identical_logits_give_at_most_the_shares_of_the_classes(kind) -> None:
    """Nothing tells the images apart: the temperature finds nothing, and what has a shift a class finds the shares."""
    labels = np.array([0, 0, 0, 1, 1, 2])
    found = kind().fit(np.zeros((6, 3)), labels).probabilities(np.zeros((1, 3)))[0]
    expected = [1 / 3] * 3 if kind in (TemperatureScaling, EnsembleTemperatureScaling) else [1 / 2, 1 / 3, 1 / 6]
    if kind in (StructuredVectorScaling, StructuredMatrixScaling):  # six images are few: on the way from the one to it
        assert 1 / 3 < found[0] < 1 / 2 and 1 / 6 < found[2] < 1 / 3
    else:
        assert np.allclose(found, expected, atol=1e-4)
