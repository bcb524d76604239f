"""Dirichlet calibration: the gradient's zero, scikit-learn's logistic regression, its limits, what says nothing."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from ddcal.calibration import DirichletCalibration, load_calibrator, negative_log_likelihood
from ddcal.calibration.dirichlet import RIDGE
from ddcal.calibration.matrix_scaling import log_softmax
from ddcal.seeding import generator


def sample(images=400, classes=4, seed=0):
    """Logits whose labels are drawn from an affine map of the logarithms of their probabilities."""
    stream = generator(seed, "test", "dirichlet")
    logits = 2.0 * torch.randn(images, classes, generator=stream, dtype=torch.float64)
    mixing = 0.5 * torch.eye(classes, dtype=torch.float64)
    mixing += 0.2 * torch.rand(classes, classes, generator=stream, dtype=torch.float64)
    shares = torch.softmax(torch.log_softmax(logits, 1) @ mixing.T + 0.3 * torch.arange(classes), dim=1)
    return logits.numpy(), torch.multinomial(shares, 1, generator=stream)[:, 0].numpy()


def loss(matrix, shift, logits, labels, strength):
    """The definition, an element of the penalty at a time."""
    classes = len(shift)
    likelihood = cross_entropy(
        torch.log_softmax(torch.as_tensor(logits), 1) @ matrix.T + shift, torch.as_tensor(labels)
    )
    outside = sum(matrix[i, j] ** 2 for i in range(classes) for j in range(classes) if i != j)
    diagonal = sum((matrix[i, i] - 1.0) ** 2 for i in range(classes))
    odir = outside / (classes * (classes - 1)) + sum(one**2 for one in shift) / classes
    return likelihood + strength * odir + RIDGE * diagonal


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_the_fit_is_the_optimum_of_the_definition(strength):
    logits, labels = sample()
    fitted = DirichletCalibration(strength).fit(logits, labels)
    matrix, shift = (torch.tensor(one, requires_grad=True) for one in (fitted.matrix, fitted.shift))
    value = loss(matrix, shift, logits, labels, strength)
    slopes = torch.autograd.grad(value, [matrix, shift])
    assert max(float(one.abs().max()) for one in slopes) < 1e-7  # convex: nothing is lower
    stream = generator(1, "test", "elsewhere")
    for _ in range(20):
        aside = 0.1 * torch.randn(matrix.shape, generator=stream, dtype=torch.float64)
        assert loss(matrix + aside, shift, logits, labels, strength) > value
    found = -np.log(fitted.probabilities(logits)[np.arange(len(labels)), labels]).mean()
    assert fitted.nll == pytest.approx(found, abs=1e-12)


def test_without_a_penalty_it_is_logistic_regression_on_logarithms():
    logits, labels = sample(1500, 3)
    fitted = DirichletCalibration(1e-9).fit(logits, labels)
    scikit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(log_softmax(logits), labels)
    np.testing.assert_allclose(fitted.probabilities(logits), scikit.predict_proba(log_softmax(logits)), atol=1e-4)


def test_a_strong_penalty_leaves_one_number_a_class():
    logits, labels = sample()
    fitted = DirichletCalibration(1e9).fit(logits, labels)
    outside = fitted.matrix - np.diag(np.diag(fitted.matrix))
    assert np.abs(outside).max() < 1e-6 and np.abs(fitted.shift).max() < 1e-6
    assert np.abs(np.diag(fitted.matrix) - 1.0).max() > 0.01


def test_it_repairs_what_its_family_can():
    logits, labels = sample(4000, 5)
    logits_new, labels_new = sample(4000, 5, seed=0)
    fitted = DirichletCalibration(1e-3).fit(logits[:2000], labels[:2000])
    probs = fitted.probabilities(logits_new[2000:])
    nll = -np.log(probs[np.arange(2000), labels_new[2000:]]).mean()
    assert nll < negative_log_likelihood(logits_new[2000:], labels_new[2000:]) - 0.05


def test_logits_that_say_nothing_give_the_shares_of_the_classes():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    fitted = DirichletCalibration(1e-8).fit(np.zeros((100, 3)), labels)
    np.testing.assert_allclose(fitted.probabilities(np.zeros((2, 3))), [[0.6, 0.3, 0.1]] * 2, atol=1e-4)


def test_images_that_are_all_right_and_logits_beyond_float32_stay_finite():
    logits = 50.0 * np.eye(3)[np.arange(30) % 3]
    fitted = DirichletCalibration().fit(logits, np.arange(30) % 3)
    probs = fitted.probabilities(1e4 * logits)
    assert np.isfinite(probs).all() and probs.argmax(1).tolist() == (np.arange(30) % 3).tolist()
    shifted = DirichletCalibration().fit(logits + 7.0, np.arange(30) % 3)
    np.testing.assert_allclose(shifted.probabilities(logits), fitted.probabilities(logits))


def test_it_is_kept_to_the_bit(tmp_path):
    logits, labels = sample()
    fitted = DirichletCalibration().fit(logits, labels)
    fitted.save(tmp_path)
    again = load_calibrator(tmp_path)
    assert isinstance(again, DirichletCalibration) and again.facts() == fitted.facts()
    np.testing.assert_array_equal(again.probabilities(logits), fitted.probabilities(logits))


def test_bad_input_is_named():
    for strength in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"strength is .*; it must be a finite number above 0"):
            DirichletCalibration(strength)
    with pytest.raises(ValueError, match="Dirichlet calibration"):
        DirichletCalibration().probabilities(np.zeros((2, 3)))
