import copy
import io

import pytest
import torch
from torch.nn import functional as F

from ddcal.config import NetworkConfig, TrainConfig
from ddcal.config.presets import DEFAULT_RATE, TRAIN_DEFAULTS
from ddcal.errors import DivergedError
from ddcal.networks import build_network
from ddcal.seeding import generator
from ddcal.training import DDNNTraining

NETWORK = {"width": 4, "depth": 2}


@pytest.fixture(autouse=True)
def one_thread():
    """1 and 2 threads give different bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_training(images=10, seed=0, flip=False, stage="train", **settings):
    draws = generator(0, "test", "training-images")
    settings = {"epochs": 4, "augment": "none", "networks": 2, "batch_size": 4, "network": NETWORK, **settings}
    return DDNNTraining(
        torch.randn(images, 1, 8, 8, generator=draws),
        torch.arange(images) % 3,
        TrainConfig.model_validate(TRAIN_DEFAULTS | {"lr": DEFAULT_RATE} | settings),
        num_classes=3,
        flip=flip,
        seed=seed,
        stage=stage,
    )


def run(training):
    return [training.step() for _ in range(training.epochs - training.epoch)]


def weights_of(training, index=0):
    return torch.cat([p.detach().flatten() for p in training.networks[index].parameters()])


def gradient_of(training, index=0):
    """The gradient over all images, written out on a copy of the network."""
    network = copy.deepcopy(training.networks[index]).train()
    loss = F.cross_entropy(network(training.images), training.labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


@pytest.mark.parametrize("augment", ["none", "dsa"])
@pytest.mark.parametrize(("momentum", "norm"), [(0.9, "instance"), (0.0, "instance"), (0.9, "batch")])
def test_training_goes_on_bit_exactly_from_any_epoch(augment, momentum, norm):
    settings = {"augment": augment, "momentum": momentum, "network": {**NETWORK, "norm": norm}, "lr": 0.1}
    undisturbed = make_training(**settings)
    losses = run(undisturbed)
    for stop in range(5):
        first = make_training(**settings)
        for _ in range(stop):
            first.step()
        stream = io.BytesIO()
        torch.save(first.state(), stream)
        second = make_training(**settings)
        second.restore(torch.load(io.BytesIO(stream.getvalue()), weights_only=True))
        assert run(second) == losses[stop:]
        for ours, theirs in zip(second.networks, undisturbed.networks, strict=True):
            theirs = theirs.state_dict()
            assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


def test_a_state_is_a_copy_and_restores_more_than_once():
    training = make_training()
    start = training.state()
    losses = run(training)
    training.restore(start)  # also the momentum, which at epoch 0 is none
    assert run(training) == losses


@pytest.mark.parametrize("augment", ["none", "dsa"])
def test_more_networks_do_not_change_the_first_ones(augment):
    few, many = (make_training(networks=count, augment=augment) for count in (2, 4))
    run(few)
    run(many)
    assert all(torch.equal(weights_of(few, index), weights_of(many, index)) for index in range(2))
    assert len({tuple(weights_of(many, index)[:5].tolist()) for index in range(4)}) == 4


@pytest.mark.parametrize(
    ("changed", "same"), [({}, True), ({"seed": 1}, False), ({"stage": "probe"}, False), ({"flip": True}, False)]
)
def test_seed_and_stage_decide_the_bits(changed, same):
    one, other = make_training(augment="dsa"), make_training(augment="dsa", **changed)
    run(one)
    run(other)
    assert torch.equal(weights_of(one), weights_of(other)) == same


@pytest.mark.parametrize(
    ("epochs", "factors"),
    [
        (1, [1.0]),
        (2, [1.0, 0.1]),
        (3, [1.0, 1.0, 0.1]),
        (4, [1.0, 1.0, 0.1, 0.1]),
        (5, [1.0, 1.0, 1.0, 0.1, 0.1]),
    ],
)
def test_the_rate_falls_to_a_tenth_at_half(epochs, factors):
    """Plain SGD on one batch: the rate is how far the weights move along the gradient."""
    training = make_training(epochs=epochs, lr=0.2, momentum=0.0, weight_decay=0.0, batch_size=256)
    found = []
    for _ in range(epochs):
        before, gradient = weights_of(training), gradient_of(training)
        training.step()
        moved = before - weights_of(training)
        found.append(float(moved @ gradient / (gradient @ gradient)))
    assert found == pytest.approx([0.2 * factor for factor in factors], rel=1e-3)


def test_steps_are_sgd_with_momentum_and_weight_decay():
    """d = ∇ + λw; v = μv + d; w = w − ηv (torch.optim.SGD, without dampening or Nesterov)."""
    training = make_training(epochs=8, lr=0.05, momentum=0.8, weight_decay=0.01, batch_size=256)
    weights, velocity = weights_of(training), 0.0
    for _ in range(4):
        velocity = 0.8 * velocity + gradient_of(training) + 0.01 * weights
        training.step()
        weights = weights - 0.05 * velocity
        torch.testing.assert_close(weights_of(training), weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 9, 10, 256])
def test_an_epoch_takes_every_image_exactly_once(batch_size):
    """While the weights stand still the epoch's loss is the mean over all images, so none was left out or doubled."""
    training = make_training(batch_size=batch_size, lr=1e-12, networks=1)
    for _ in range(3):
        expected = F.cross_entropy(training.networks[0](training.images), training.labels).item()
        assert training.step() == pytest.approx(expected, rel=1e-6)


def test_every_network_starts_from_a_stream_of_its_own():
    training = make_training(seed=6, networks=3)
    for index in range(3):
        expected = build_network(NetworkConfig(**NETWORK), 1, 8, 3, generator(6, "train", "network", index))
        assert torch.equal(torch.cat([p.flatten() for p in expected.parameters()]), weights_of(training, index))


@pytest.mark.parametrize(("batch_size", "same"), [(1, False), (256, True)])
def test_batches_are_drawn_anew_every_epoch(batch_size, same):
    """The same weights a second time, but as another epoch: other batches, unless one batch is everything."""
    ends = []
    for epoch in (0, 1):
        training = make_training(batch_size=batch_size, networks=1, lr=0.1)
        training.restore({**training.state(), "epoch": epoch})
        training.step()
        ends.append(weights_of(training))
    assert torch.allclose(*ends, atol=1e-5) == same


@pytest.mark.parametrize(("rate", "epochs"), [(1e12, 4), (1e30, 4)])
def test_divergence_names_the_rate(rate, epochs):
    training = make_training(lr=rate, epochs=epochs)
    with pytest.raises(DivergedError, match=r"train: network 1 diverged in epoch \d of 4 .*lower train\.lr \(1e\+"):
        run(training)


@pytest.mark.parametrize(("broken", "said"), [(0, 1), (2, 3), (3, 4)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7])
def test_divergence_is_caught_at_its_batch(broken, said, value):
    training, seen = make_training(16, networks=1), []

    def loss(logits, labels):
        seen.append(len(seen))
        return F.cross_entropy(logits, labels) * (value if len(seen) == broken + 1 else 1.0)

    training.loss = loss
    with pytest.raises(DivergedError, match=rf"network 1 diverged in epoch 1 of 4 at batch {said} of 4 \(loss "):
        training.step()
    assert len(seen) <= said + 1, "at most one batch later"


def test_divergence_in_the_last_update_shows_in_the_logits():
    training = make_training(lr=1e30, epochs=1, batch_size=256)
    training.step()  # the loss before the first update is fine
    with pytest.raises(DivergedError, match=r"network 2 diverged after epoch 1 of 1 .*lower train\.lr"):
        training.predict(1, training.images)


def test_a_probe_that_diverges_does_not_blame_the_trials_rate():
    training = make_training(lr=1e30, stage="probe")
    with pytest.raises(DivergedError, match=r"^probe: network 1 diverged") as caught:
        run(training)
    assert "train.lr" not in str(caught.value)


def test_the_global_generator_is_neither_read_nor_advanced():
    torch.manual_seed(1)
    first = make_training(augment="dsa", flip=True)
    run(first)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = make_training(augment="dsa", flip=True)
    run(second)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights_of(first), weights_of(second))


def test_training_learns_what_can_be_learned():
    training = make_training(epochs=60, lr=0.1)
    losses = run(training)
    assert losses[-1] < 0.1 * losses[0]
    assert bool((training.predict(0, training.images).argmax(1) == training.labels).all())


def test_images_are_not_touched():
    training = make_training(augment="dsa")
    before = training.images.clone()
    run(training)
    assert torch.equal(training.images, before)
