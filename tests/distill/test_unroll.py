"""`unroll_gradient` against plain autograd through the whole loop, written down once more here, in float64."""

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddcal.config import NetworkConfig
from ddcal.data.augment import augment, draw_augmentation
from ddcal.distill.unroll import activation_bytes, method_of, unroll_gradient
from ddcal.masking import mask_images
from ddcal.networks import build_network
from ddcal.seeding import generator

CLASSES, SIZE = 3, 8


def problem(augmented=False, masked=False, batch=None):
    """(step loss, outer loss, start, [images], rate) of a small ConvNet: cross-entropy inside, trajectory outside."""
    network = build_network(NetworkConfig(width=4, depth=2), 1, SIZE, CLASSES, generator(0, "test", "net")).double()
    names = [name for name, _ in network.named_parameters()]
    start = [value.detach() for value in network.parameters()]
    draws = generator(0, "test", "images")
    images = torch.randn(6, 1, SIZE, SIZE, generator=draws, dtype=torch.float64)
    labels = torch.arange(6) % CLASSES
    target = [value + 0.05 * torch.randn(value.shape, generator=draws, dtype=torch.float64) for value in start]
    scale = sum((a - b).square().sum() for a, b in zip(start, target, strict=True))

    def step_loss(step, parameters, inputs):
        chosen = torch.arange(6)
        if batch is not None:
            chosen = torch.randperm(6, generator=generator(1, "test", "batch", step))[:batch]
        batch_images = inputs[0][chosen]
        if masked:
            batch_images = mask_images(batch_images, 0.3, generator(1, "test", "mask", step))
        if augmented:
            drawn = draw_augmentation(len(chosen), SIZE, generator(1, "test", "augment", step), siamese=False)
            batch_images = augment(batch_images, drawn)
        logits = functional_call(network, dict(zip(names, parameters, strict=True)), (batch_images,))
        return cross_entropy(logits, labels[chosen])

    def outer_loss(parameters, inputs):
        distance = sum((a - b).square().sum() for a, b in zip(parameters, target, strict=True))
        return distance / scale + 1e-3 * inputs[0].square().sum()

    return step_loss, outer_loss, start, [images], torch.tensor(0.1, dtype=torch.float64)


def by_plain_autograd(step_loss, outer_loss, start, inputs, rate, steps, momentum):
    inputs = [value.clone().requires_grad_() for value in inputs]
    rate = rate.clone().requires_grad_()
    parameters = [value.clone().requires_grad_() for value in start]
    velocity = [0.0] * len(parameters)
    for step in range(steps):
        gradients = torch.autograd.grad(step_loss(step, parameters, inputs), parameters, create_graph=True)
        velocity = [momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        parameters = [p - rate * v for p, v in zip(parameters, velocity, strict=True)]
    loss = outer_loss(parameters, inputs)
    return loss, *torch.autograd.grad(loss, [inputs[0], rate])


def relative(found, expected):
    return float(((found - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("method", ["exact", "segments", "full"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (1, {}),
        (5, {"augmented": True}),
        (7, {"masked": True}),
        (20, {"augmented": True, "masked": True, "batch": 4}),
    ],
)
def test_equals_plain_autograd_through_the_whole_loop(method, momentum, steps, settings):
    parts = problem(**settings)
    loss, images, rate = by_plain_autograd(*parts, steps, momentum)
    found = unroll_gradient(*parts, steps, momentum=momentum, method=method, segment=3)
    assert relative(found.loss, loss) < 1e-12
    assert relative(found.inputs[0], images) < 1e-9
    assert relative(found.learning_rate, rate) < 1e-9


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_agrees_with_finite_differences(momentum):
    """Of a direction in the images, and of the rate."""
    step_loss, outer_loss, start, (images,), rate = problem(augmented=True)
    found = unroll_gradient(step_loss, outer_loss, start, [images], rate, 6, momentum=momentum)
    direction = torch.randn(images.shape, generator=generator(2, "test", "direction"), dtype=torch.float64)

    def loss(moved, eta):
        return unroll_gradient(step_loss, outer_loss, start, [moved], eta, 6, momentum=momentum).loss

    h = 1e-5
    along = (loss(images + h * direction, rate) - loss(images - h * direction, rate)) / (2 * h)
    assert float((found.inputs[0] * direction).sum()) == pytest.approx(float(along), rel=1e-4)
    along = (loss(images, rate + h) - loss(images, rate - h)) / (2 * h)
    assert float(found.learning_rate) == pytest.approx(float(along), rel=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_quadratic_by_hand(momentum):
    """ℓ = (θ − x)²/2 from θ = 0: two steps end at θ_2 = x·(1 − (1 − η)² + μη), and L = θ_2."""
    x, eta = torch.tensor([3.0], dtype=torch.float64), 0.1
    found = unroll_gradient(
        lambda step, theta, inputs: (theta[0] - inputs[0]).square().sum() / 2,
        lambda theta, inputs: theta[0].sum(),
        [torch.zeros(1, dtype=torch.float64)],
        [x],
        torch.tensor(eta, dtype=torch.float64),
        2,
        momentum=momentum,
    )
    factor = 1 - (1 - eta) ** 2 + momentum * eta
    assert float(found.loss) == pytest.approx(3.0 * factor, rel=1e-12)
    assert float(found.inputs[0]) == pytest.approx(factor, rel=1e-12)
    assert float(found.learning_rate) == pytest.approx(3.0 * (2 * (1 - eta) + momentum), rel=1e-12)


def test_several_inputs_of_which_one_matters_in_the_outer_loss_alone():
    step_loss, outer_loss, start, (images,), rate = problem()
    extra = torch.tensor([2.0], dtype=torch.float64)
    found = unroll_gradient(
        step_loss, lambda p, x: outer_loss(p, x) + x[1].square().sum(), start, [images, extra], rate, 3
    )
    assert torch.equal(found.inputs[1], torch.tensor([4.0], dtype=torch.float64))
    plain = unroll_gradient(step_loss, outer_loss, start, [images], rate, 3)
    assert torch.equal(found.inputs[0], plain.inputs[0])


def test_exact_and_segments_end_at_the_same_bits():
    parts = problem(augmented=True, batch=4)
    exact, segments = (unroll_gradient(*parts, 11, momentum=0.9, method=m, segment=4) for m in ("exact", "segments"))
    for a, b in zip((*exact.parameters, *exact.inputs), (*segments.parameters, *segments.inputs), strict=True):
        assert torch.equal(a, b)


def test_nothing_given_is_changed():
    step_loss, outer_loss, start, (images,), rate = problem()
    copies = [value.clone() for value in (*start, images, rate)]
    unroll_gradient(step_loss, outer_loss, start, [images], rate, 4, momentum=0.5)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*start, images, rate), strict=True))
    assert not images.requires_grad


def test_tesla_drops_the_curvature_and_nothing_else():
    """Exact for one step; for more, the gradient of an unroll whose step losses see detached parameters."""
    parts = problem(augmented=True)
    one, exact = (unroll_gradient(*parts, 1, method=m) for m in ("tesla", "exact"))
    assert relative(one.inputs[0], exact.inputs[0]) < 1e-12

    step_loss, outer_loss, start, (images,), rate = parts
    leaf, eta, parameters = images.clone().requires_grad_(), rate.clone().requires_grad_(), list(start)
    for step in range(6):
        leaves = [p.detach().requires_grad_() for p in parameters]
        gradients = torch.autograd.grad(step_loss(step, leaves, [leaf]), leaves, create_graph=True)
        parameters = [p - eta * g for p, g in zip(parameters, gradients, strict=True)]
    expected = torch.autograd.grad(outer_loss(parameters, [leaf]), [leaf, eta])
    found = unroll_gradient(*parts, 6, method="tesla")
    assert relative(found.inputs[0], expected[0]) < 1e-9
    assert relative(found.learning_rate, expected[1]) < 1e-9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"segment": 0}, "segment 0"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"method": "tesla", "momentum": 0.5}, "'tesla' is defined for plain SGD"),
    ],
)
def test_bad_arguments(settings, words):
    steps = settings.pop("steps", 2)
    with pytest.raises(ValueError, match=words):
        unroll_gradient(*problem(), steps, **settings)


@pytest.mark.parametrize(("images", "wanted"), [(1, "full"), (230, "full"), (250, "exact"), (10_000, "exact")])
def test_a_small_graph_is_kept_whole_and_a_large_one_is_not(images, wanted):
    """The estimate is a function of shapes alone: of width 128 at 32 px 4.5 MB an image, and 1 GiB is the limit."""
    network = build_network(NetworkConfig(width=128), 3, 32, 10, generator(0, "test", "network"))
    assert activation_bytes(network, (3, 32, 32)) == pytest.approx(2.25e6, rel=0.05)
    assert method_of("auto", network, (3, 32, 32), images) == wanted
    assert method_of("segments", network, (3, 32, 32), images) == "segments"
