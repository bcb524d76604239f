"""Networks that take every step together are what each is by itself: DDNNTraining with ``side_by_side``."""

import copy
import io

import pytest
import torch
from torch.nn import functional as F

from ddcal.config import TrainConfig
from ddcal.config.presets import DEFAULT_RATE, TRAIN_DEFAULTS
from ddcal.errors import DivergedError
from ddcal.networks.sgd import SGD
from ddcal.seeding import generator
from ddcal.training import DDNNTraining
from ddcal.training.ddnn import AT_ONCE

IMAGES, CLASSES = 10, 3
LOSSES = [
    {"loss": "cross_entropy"},
    {"loss": "mixup", "augment": "dsa"},
    {"loss": "label_smoothing", "augment": "crop_flip"},
    {"loss": "focal"},
    {"loss": "focal", "focal": {"sample_dependent": True}},
]
SOFT = [{"loss": one} for one in ("cross_entropy", "mixup", "label_smoothing", "kl")]


@pytest.fixture(autouse=True)
def one_thread():
    """1 and 2 threads give different bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_training(side_by_side, dtype=torch.float32, soft=False, compiled=False, **settings):
    draws = generator(0, "test", "training-images")
    images = torch.randn(IMAGES, 1, 8, 8, generator=draws)
    labels = torch.arange(IMAGES) % CLASSES
    if soft:
        labels = torch.softmax(3.0 * torch.randn(IMAGES, CLASSES, generator=draws), 1)
    given = {"epochs": 4, "augment": "none", "networks": 3, "batch_size": 4, "network": {"width": 4, "depth": 2}}
    training = DDNNTraining(
        images,
        labels,
        TrainConfig.model_validate(TRAIN_DEFAULTS | {"lr": DEFAULT_RATE} | given | settings),
        num_classes=CLASSES,
        flip=True,
        seed=0,
        side_by_side=side_by_side,
    )
    return training if dtype == torch.float32 else in_float64(training)


def in_float64(training):
    """The same training in double precision, before its first step."""
    for network in training.networks:
        network.double()
    training.images = training.images.double()
    training.labels = training.labels.double() if training.labels.ndim == 2 else training.labels
    training.optimizers = [
        SGD(training._learned(run), training.config.momentum, training.config.weight_decay) for run in training.runs
    ]
    return training


def run(training):
    return [training.step() for _ in range(training.epochs - training.epoch)]


def difference(one, other):
    """The largest difference of what two trainings are, momentum and all."""
    parts = zip(flat(one.state()), flat(other.state()), strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in parts)


def flat(state):
    weights = [value for one in state["networks"] for value in one.values()]
    return weights + [value for one in state["momentum"] for value in one]


@pytest.mark.parametrize("networks", [2, 3, 5])
@pytest.mark.parametrize(
    "settings",
    [
        *LOSSES,
        *({"soft": True, **one} for one in SOFT),
        {"schedule": "step_reference", "lr": 0.1},
        {"schedule": "cosine", "augment": "dsa"},
        {"momentum": 0.0, "weight_decay": 0.0},
        {"batch_size": 256},
        {"network": {"width": 4, "depth": 2, "norm": "none"}},
    ],
    ids=str,
)
def test_side_by_side_each_network_is_what_it_is_alone(settings, networks):
    """Ten images in batches of four: the last of an epoch holds two."""
    alone, together = (make_training(side, torch.float64, networks=networks, **settings) for side in (False, True))
    start = flat(alone.state())
    losses = run(alone)
    assert run(together) == pytest.approx(losses, rel=1e-6)  # what is reported is summed in float32
    assert difference(alone, together) <= 1e-9
    assert max(float((a - b).abs().max()) for a, b in zip(start, flat(together.state()), strict=False)) > 1e-4
    assert torch.allclose(alone.predict(1, alone.images), together.predict(1, together.images), atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"loss": "mixup", "augment": "dsa"}], ids=str)
def test_in_float32_they_differ_by_rounding(settings):
    alone, together = make_training(False, **settings), make_training(True, **settings)
    run(alone)
    run(together)
    assert difference(alone, together) < 1e-4


def test_more_networks_change_the_first_ones_by_rounding_alone():
    """Up to `AT_ONCE` go together, so that of the many here the last goes alone."""
    few, many = (make_training(True, networks=count, augment="dsa") for count in (2, AT_ONCE + 1))
    assert [len(one) for one in many.runs] == [AT_ONCE, 1]
    run(few)
    run(many)
    for ours, theirs in zip(few.networks, many.networks, strict=False):
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 1e-4
    firsts = [next(one.parameters()).flatten()[0].item() for one in many.networks]
    assert len(set(firsts)) == AT_ONCE + 1
    last = make_training(False, networks=AT_ONCE + 1, augment="dsa")
    run(last)
    pairs = zip(last.networks[-1].parameters(), many.networks[-1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_one_network_keeps_its_bits():
    alone, together = (make_training(side, networks=1, augment="dsa") for side in (False, True))
    assert run(alone) == run(together)
    assert difference(alone, together) == 0.0


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "dsa", "loss": "mixup"},
        {"schedule": "step_reference"},
        {"momentum": 0.0},
        {"networks": AT_ONCE + 1, "epochs": 2},
    ],
    ids=str,
)
def test_it_goes_on_bit_exactly_from_any_epoch(settings):
    undisturbed = make_training(True, **settings)
    losses = run(undisturbed)
    for stop in range(undisturbed.epochs + 1):
        first = make_training(True, **settings)
        for _ in range(stop):
            first.step()
        stream = io.BytesIO()
        torch.save(first.state(), stream)
        second = make_training(True, **settings)
        second.restore(torch.load(io.BytesIO(stream.getvalue()), weights_only=True))
        assert run(second) == losses[stop:]
        assert difference(second, undisturbed) == 0.0


def test_states_have_one_form():
    """That of networks that go alone: what one way has kept the other can read."""
    alone, together = make_training(False), make_training(True)
    alone.step()
    together.restore(alone.state())
    assert difference(alone, together) == 0.0
    assert together.step() == pytest.approx(alone.step(), rel=1e-5)


@pytest.mark.parametrize(("network", "broken", "said"), [(0, 0, 1), (2, 1, 2), (1, 2, 3)])
@pytest.mark.parametrize("value", [float("nan"), 1e7])
def test_the_network_that_diverges_is_named_with_its_batch(network, broken, said, value):
    training, seen = make_training(True), []

    def loss(logits, labels):
        seen.append(1)
        return F.cross_entropy(logits, labels) * (value if len(seen) == 3 * broken + network + 1 else 1.0)

    training.loss = loss
    with pytest.raises(DivergedError, match=rf"train: network {network + 1} diverged in epoch 1 of 4 at batch {said} "):
        training.step()
    assert len(seen) == 3 * said, "on the CPU at once"


@pytest.mark.parametrize("loss", ["cross_entropy", "mixup", "label_smoothing", "focal"])
def test_divergence_names_the_rate(loss):
    with pytest.raises(DivergedError, match=r"train: network \d diverged in epoch \d of 4 .*lower train\.lr \(1e\+30"):
        run(make_training(True, lr=1e30, loss=loss))


def test_a_network_that_diverges_leaves_the_others_alone():
    """Their gradients are their own: not even NaN passes over."""
    training = make_training(True, torch.float64, epochs=1, batch_size=256)
    for parameter in training.networks[1].parameters():
        parameter.data.fill_(float("nan"))
    wanted = make_training(False, torch.float64, epochs=1, batch_size=256)
    wanted.step()
    with pytest.raises(DivergedError, match="network 2"):
        training.step()
    for index in (0, 2):
        pairs = zip(training.networks[index].parameters(), wanted.networks[index].parameters(), strict=True)
        assert max(float((a - b).detach().abs().max()) for a, b in pairs) <= 1e-9


@pytest.mark.parametrize("network", [{"width": 4, "depth": 2, "norm": "batch"}, {"name": "mlp", "width": 4}])
def test_what_cannot_go_side_by_side_is_refused(network):
    with pytest.raises(ValueError, match="do not go side by side"):
        make_training(True, network=network)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01)])
def test_the_optimiser_has_the_bits_of_torchs(momentum, decay):
    draws = generator(0, "test", "optimiser")
    ours = [torch.randn(shape, generator=draws) for shape in ((7, 5, 3, 3), (7,), (13, 31))]
    theirs = [one.clone().requires_grad_() for one in ours]
    optimizer = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, weight_decay=decay)
    own = SGD(ours, momentum, decay)
    for step in range(5):
        gradients = [torch.randn(one.shape, generator=draws) for one in ours]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        rate = optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()
        kept = copy.deepcopy(gradients)
        own.step(gradients, rate)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(kept, gradients, strict=True))
        assert len(own.velocity) == (3 if momentum else 0)
        for parameter, velocity in zip(theirs, own.velocity, strict=False):
            assert torch.equal(optimizer.state[parameter]["momentum_buffer"], velocity)


def test_a_parameter_without_a_gradient_stays():
    parameters = [torch.ones(2), torch.ones(2)]
    SGD(parameters, 0.9, 0.1).step([None, torch.ones(2)], 1.0)
    assert torch.equal(parameters[0], torch.ones(2)) and torch.allclose(parameters[1], torch.full((2,), -0.1))
