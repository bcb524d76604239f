"""Matrix scaling and its structured forms: the optimum by plain autograd, its gradient's zero, limits, probmetrics."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ddcal.calibration import (
    MatrixScaling,
    StructuredMatrixScaling,
    StructuredVectorScaling,
    TemperatureScaling,
    fit_temperature,
)
from ddcal.calibration.matrix_scaling import fit_affine, log_softmax
from ddcal.seeding import generator


def sample(images=300, classes=4, seed=0):
    """Logits whose labels are drawn from an affine map of them."""
    stream = generator(seed, "test", "matrix")
    logits = 2.0 * torch.randn(images, classes, generator=stream, dtype=torch.float64)
    mixing = 0.5 * torch.eye(classes, dtype=torch.float64) + 0.2 * torch.rand(
        classes, classes, generator=stream, dtype=torch.float64
    )
    shares = torch.softmax(logits @ mixing.T + 0.3 * torch.arange(classes), dim=1)
    return logits.numpy(), torch.multinomial(shares, 1, generator=stream)[:, 0].numpy()


def penalties(kind, images, classes):
    """The paper's, of D (K, K) and of b, written out a number at a time."""
    if kind is MatrixScaling:
        return np.full((classes, classes), 1e-6), 1e-6
    of_change = np.empty((classes, classes))
    for row in range(classes):
        for column in range(classes):
            of_change[row, column] = classes / images if row == column else classes * (classes - 1) / images
    return of_change, classes / images


def objective(kind, fitted, scores, labels):
    """The penalised loss as a function of the change and the shift, for autograd."""
    of_change, of_shift = (torch.as_tensor(one) for one in penalties(kind, *scores.shape))
    z, y = torch.as_tensor(scores), torch.as_tensor(labels)

    def loss(change, shift):
        full = torch.diag(change) if change.ndim == 1 else change
        return cross_entropy(z + z @ full.T + shift, y) + (of_change * full**2).sum() + (of_shift * shift**2).sum()

    return loss


@pytest.mark.parametrize("kind", [StructuredVectorScaling, StructuredMatrixScaling, MatrixScaling])
def test_the_fit_is_the_optimum_of_the_definition(kind):
    logits, labels = sample()
    fitted = kind().fit(logits, labels)
    scores = logits
    if kind is not MatrixScaling:
        temperature = fit_temperature(logits, labels, (0.05, 20.0)).temperature
        assert fitted.temperature == temperature
        scores = torch.log_softmax(torch.as_tensor(logits / temperature), dim=1).numpy()
    loss = objective(kind, fitted, scores, labels)
    change, shift = (torch.tensor(one, requires_grad=True) for one in (fitted.change, fitted.shift))
    slopes = torch.autograd.grad(loss(change, shift), [change, shift])
    assert max(float(one.abs().max()) for one in slopes) < 1e-7  # convex: nothing is lower

    found = [torch.zeros_like(one).requires_grad_() for one in (change, shift)]  # the same from another solver
    solver = torch.optim.LBFGS(
        found, max_iter=2000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        value = loss(*found)
        value.backward()
        return value

    solver.step(closure)
    full = torch.diag(found[0]) if kind.__name__ == "StructuredVectorScaling" else found[0]
    said = torch.softmax(torch.as_tensor(scores) @ (torch.eye(4, dtype=torch.float64) + full).T + found[1], dim=1)
    np.testing.assert_allclose(fitted.probabilities(logits), said.detach().numpy(), atol=1e-5)
    nll = float(cross_entropy(torch.log(torch.as_tensor(fitted.probabilities(logits))), torch.as_tensor(labels)))
    assert fitted.nll == pytest.approx(nll, abs=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    """At the start, where nothing is zero but the penalties' own part."""
    logits, labels = sample(40, 3)
    scores, step = log_softmax(logits), 1e-6
    loss = objective(StructuredMatrixScaling, None, scores, labels)
    change, shift = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True), torch.zeros(3, dtype=torch.float64)
    (slope,) = torch.autograd.grad(loss(change, shift), change)
    moved = change.detach().clone()
    moved[1, 2] += step
    other = change.detach().clone()
    other[1, 2] -= step
    assert float(slope[1, 2]) == pytest.approx(float(loss(moved, shift) - loss(other, shift)) / (2 * step), rel=1e-6)


def test_a_strong_penalty_leaves_temperature_scaling():
    logits, labels = sample()
    temperature = fit_temperature(logits, labels, (0.05, 20.0)).temperature
    wanted = TemperatureScaling(temperature=temperature).probabilities(logits)
    found = StructuredMatrixScaling(strength=1e9).fit(logits, labels).probabilities(logits)
    np.testing.assert_allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize("kind", [StructuredVectorScaling, StructuredMatrixScaling, MatrixScaling])
@pytest.mark.parametrize("case", ["separable", "one class", "one image"])
def test_degenerate_images_have_a_finite_fit(kind, case):
    logits, labels = sample(60)
    if case == "separable":
        labels = logits.argmax(1)
    elif case == "one class":
        labels = np.zeros(60, np.int64)
    else:
        logits, labels = logits[:1], labels[:1]
    fitted = kind().fit(logits, labels)
    assert np.isfinite(fitted.change).all() and np.isfinite(fitted.shift).all()
    assert np.isfinite(fitted.probabilities(1e3 * logits)).all()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kind", [StructuredVectorScaling, StructuredMatrixScaling])
def test_it_agrees_with_probmetrics(kind, classes):
    """The second step, on the same scaled logits; its first is temperature scaling of another kind."""
    logistic = pytest.importorskip("probmetrics.calibrators.logistic")
    logits, labels = sample(400, classes)
    scores = log_softmax(logits)
    theirs = {StructuredVectorScaling: logistic.SVSCalibrator, StructuredMatrixScaling: logistic.SMSCalibrator}[kind]()
    rates = {"reg_intercept": classes / 400, "reg_diagonal": classes / 400}
    of_change = np.full(classes, classes / 400)
    if kind is StructuredMatrixScaling:
        rates["reg_off_diagonal"] = classes * (classes - 1) / 400
        of_change, _ = penalties(kind, 400, classes)
    found = theirs._fit_bfgs(torch.tensor(scores), torch.as_tensor(labels), num_classes=classes, **rates)
    scale, shift = found if kind is StructuredVectorScaling else (found[:, :-1], found[:, -1])
    said = torch.softmax(torch.as_tensor((scores * scale if scale.ndim == 1 else scores @ scale.T) + shift), dim=1)
    change, moved, _ = fit_affine(scores, labels, of_change, classes / 400)
    ours = torch.softmax(
        torch.as_tensor(scores + (scores * change if change.ndim == 1 else scores @ change.T) + moved), dim=1
    )
    np.testing.assert_allclose(ours.numpy(), said.numpy(), atol=1e-3)  # its solver stops early
    loss = objective(kind, None, scores, labels)
    theirs_at = [torch.as_tensor(scale - (1.0 if scale.ndim == 1 else np.eye(classes))), torch.as_tensor(shift)]
    assert float(loss(torch.as_tensor(change), torch.as_tensor(moved))) <= float(loss(*theirs_at)) + 1e-12
