import copy
import io
import math

import pytest
import torch
from torch.nn import functional as F

from ddcal.config import NetworkConfig, TrainConfig
from ddcal.config.presets import DEFAULT_RATE, TRAIN_DEFAULTS
from ddcal.errors import DivergedError
from ddcal.networks import build_network
from ddcal.seeding import generator
from ddcal.training import DDNNTraining
from ddcal.training.mixup import Mixing, draw_mixing
from ddcal.training.schedules import rate_factor

NETWORK = {"width": 4, "depth": 2}
AUGMENTS = ["none", "dsa", "crop_flip"]
LOSSES = ["cross_entropy", "mixup", "label_smoothing", "focal"]


@pytest.fixture(autouse=True)
def one_thread():
    """1 and 2 threads give different bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_training(images=10, seed=0, flip=False, stream="train", **settings):
    draws = generator(0, "test", "training-images")
    settings = {"epochs": 4, "augment": "none", "networks": 2, "batch_size": 4, "network": NETWORK, **settings}
    return DDNNTraining(
        torch.randn(images, 1, 8, 8, generator=draws),
        torch.arange(images) % 3,
        TrainConfig.model_validate(TRAIN_DEFAULTS | {"lr": DEFAULT_RATE} | settings),
        num_classes=3,
        flip=flip,
        seed=seed,
        stream=stream,
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


@pytest.mark.parametrize(
    "settings",
    [
        *({"augment": augment} for augment in AUGMENTS),
        *({"loss": loss, "augment": "dsa"} for loss in LOSSES),
        {"schedule": "cosine"},
        {"schedule": "step_reference", "augment": "crop_scale_rotate"},
        {"momentum": 0.0},
        {"network": {**NETWORK, "norm": "batch"}, "augment": "dsa", "loss": "mixup"},
    ],
    ids=str,
)
def test_training_goes_on_bit_exactly_from_any_epoch(settings):
    settings = {"lr": 0.1, **settings}
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


@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mixup"])
def test_more_networks_do_not_change_the_first_ones(augment, loss):
    few, many = (make_training(networks=count, augment=augment, loss=loss) for count in (2, 4))
    run(few)
    run(many)
    assert all(torch.equal(weights_of(few, index), weights_of(many, index)) for index in range(2))
    assert len({tuple(weights_of(many, index)[:5].tolist()) for index in range(4)}) == 4


@pytest.mark.parametrize("augment", ["dsa", "crop_flip"])
@pytest.mark.parametrize(
    ("changed", "same"), [({}, True), ({"seed": 1}, False), ({"stream": "probe"}, False), ({"flip": True}, False)]
)
def test_seed_and_stage_decide_the_bits(changed, same, augment):
    one, other = make_training(augment=augment), make_training(augment=augment, **changed)
    run(one)
    run(other)
    assert torch.equal(weights_of(one), weights_of(other)) == same


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("step", [1.0]),
        ("step", [1.0, 0.1]),
        ("step", [1.0, 1.0, 0.1]),
        ("step", [1.0, 1.0, 0.1, 0.1]),
        ("step", [1.0, 1.0, 1.0, 0.1, 0.1]),
        ("step_reference", [1.0]),
        ("step_reference", [1.0, 1.0]),
        ("step_reference", [1.0, 1.0, 0.1]),
        ("step_reference", [1.0, 1.0, 1.0, 0.1]),
        ("step_reference", [1.0, 1.0, 1.0, 0.1, 0.1]),
        ("cosine", [1.0]),
        ("cosine", [1.0, 0.5]),
        ("cosine", [1.0, 0.75, 0.25]),
        ("cosine", [1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        ("constant", [1.0, 1.0, 1.0]),
    ],
)
def test_the_rate_follows_the_schedule(schedule, factors):
    """Plain SGD on one batch: the rate is how far the weights move along the gradient."""
    settings = {"epochs": len(factors), "lr": 0.2, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 256}
    training = make_training(schedule=schedule, **settings)
    found = []
    for _ in factors:
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


@pytest.mark.parametrize(
    ("schedule", "epochs", "full"),
    [("step", 1000, 500), ("step_reference", 1000, 501), ("step", 300, 150), ("step_reference", 300, 151)],
)
def test_how_many_epochs_have_the_full_rate(schedule, epochs, full):
    factors = [rate_factor(schedule, epoch, epochs) for epoch in range(epochs)]
    assert factors == [1.0] * full + [0.1] * (epochs - full)


@pytest.mark.parametrize("schedule", ["step", "step_reference"])
def test_the_reference_schedule_begins_with_a_new_optimiser_where_the_rate_falls(schedule):
    """Beside torch's SGD: a second optimiser after 5 of 8 epochs, or the first one at another rate after 4."""
    training = make_training(epochs=8, lr=0.05, weight_decay=0.01, batch_size=256, schedule=schedule, networks=2)
    networks = [copy.deepcopy(network).train() for network in training.networks]
    for network in networks:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        for epoch in range(8):
            if schedule == "step_reference" and epoch == 5:
                optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9, weight_decay=0.01)
            if schedule == "step" and epoch == 4:
                optimizer.param_groups[0]["lr"] = 0.005
            optimizer.zero_grad()
            F.cross_entropy(network(training.images), training.labels).backward()
            optimizer.step()
    run(training)
    for index, network in enumerate(networks):
        expected = torch.cat([p.detach().flatten() for p in network.parameters()])
        torch.testing.assert_close(weights_of(training, index), expected, rtol=1e-4, atol=1e-6)


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


def test_an_unknown_schedule_is_refused():
    with pytest.raises(
        ValueError, match="schedule is 'linear'; it must be one of step, step_reference, cosine, constant"
    ):
        rate_factor("linear", 0, 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_epoch_has_the_loss_of_its_name(loss):
    """One batch of everything, and weights that stand still: the epoch's loss is the loss written out."""
    training = make_training(loss=loss, batch_size=256, lr=1e-12, networks=1, seed=5)
    network, labels = training.networks[0], training.labels
    if loss == "mixup":
        mixing = draw_mixing(10, 1.0, generator(5, "train", "mixup-0", 0))
        order = torch.randperm(10, generator=generator(5, "train", "order-0", 0))
        images, labels = training.images[order], labels[order]
        logits = network(mixing.share * images + (1 - mixing.share) * images[mixing.partners])
        expected = mixing.share * F.cross_entropy(logits, labels)
        expected = expected + (1 - mixing.share) * F.cross_entropy(logits, labels[mixing.partners])
    else:
        log_p = network(training.images).log_softmax(1)
        own = log_p[torch.arange(10), labels]
        expected = {
            "cross_entropy": -own.mean(),
            "label_smoothing": -(0.9 * own + 0.1 * log_p.mean(1)).mean(),
            "focal": -((1 - own.exp()) ** 3 * own).mean(),
        }[loss]
    assert training.step() == pytest.approx(expected.item(), rel=1e-5)


def test_mixup_mixes_before_the_augmentation(monkeypatch):
    seen = []
    monkeypatch.setattr("ddcal.training.ddnn.augment", lambda images, drawn: seen.append(images) or images)
    training = make_training(loss="mixup", augment="dsa", batch_size=256, networks=1, seed=5)
    training.step()
    mixing = draw_mixing(10, 1.0, generator(5, "train", "mixup-0", 0))
    order = torch.randperm(10, generator=generator(5, "train", "order-0", 0))
    assert 0.01 < mixing.share < 0.99
    assert len(seen) == 1 and torch.equal(seen[0], mixing.images(training.images[order]))


def test_mixup_that_mixes_nothing_is_the_cross_entropy(monkeypatch):
    plain = make_training(augment="dsa")
    mixed = make_training(augment="dsa", loss="mixup")
    monkeypatch.setattr("ddcal.training.ddnn.draw_mixing", lambda count, *_: Mixing(1.0, torch.arange(count).flip(0)))
    assert run(plain) == run(mixed)
    assert torch.equal(weights_of(plain), weights_of(mixed)), "its draws are no part of the other streams"


@pytest.mark.parametrize("flip", [True, False])
def test_crop_flip_moves_every_image_on_its_own_and_mirrors_where_that_is_allowed(flip, monkeypatch):
    seen = []
    monkeypatch.setattr("ddcal.training.ddnn.augment", lambda images, drawn: seen.append(drawn) or images)
    training = make_training(augment="crop_flip", flip=flip, batch_size=256, networks=1)
    training.step()
    assert [drawn.operation for drawn in seen] == (["crop", "flip"] if flip else ["crop"])
    assert all(len(drawn.parameters) == 10 and len(drawn.parameters.unique(dim=0)) > 1 for drawn in seen)


@pytest.mark.parametrize(
    ("name", "flip", "operations"),
    [
        ("dsa", True, {"color", "crop", "cutout", "flip", "scale", "rotate"}),
        ("dsa", False, {"color", "crop", "cutout", "scale", "rotate"}),
        ("crop_scale_rotate", True, {"crop", "scale", "rotate"}),
        ("flip_rotate", True, {"flip", "rotate"}),
        ("cutout", False, {"cutout"}),
        ("none", True, set()),
    ],
)
def test_training_draws_the_operations_that_are_named_and_no_other(name, flip, operations, monkeypatch):
    seen = []
    monkeypatch.setattr("ddcal.training.ddnn.augment", lambda images, drawn: seen.append(drawn) or images)
    run(make_training(augment=name, flip=flip, epochs=30, networks=1))
    assert {drawn.operation for drawn in seen} == operations
    assert len(seen) == (90 if operations else 0), "one a batch"
    assert not any(drawn.siamese for drawn in seen)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("rate", "epochs"), [(1e12, 4), (1e30, 4)])
def test_divergence_names_the_rate(rate, epochs, loss):
    training = make_training(lr=rate, epochs=epochs, loss=loss)
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
    assert len(seen) == said, "on the CPU at once"


def test_divergence_in_the_last_update_shows_in_the_logits():
    training = make_training(lr=1e30, epochs=1, batch_size=256)
    training.step()  # the loss before the first update is fine
    with pytest.raises(DivergedError, match=r"network 2 diverged after epoch 1 of 1 .*lower train\.lr"):
        training.predict(1, training.images)


def test_a_probe_that_diverges_does_not_blame_the_trials_rate():
    training = make_training(lr=1e30, stream="probe")
    with pytest.raises(DivergedError, match=r"^probe: network 1 diverged") as caught:
        run(training)
    assert "train.lr" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"augment": "dsa", "loss": "mixup"}, {"augment": "crop_flip"}], ids=str)
def test_the_global_generator_is_neither_read_nor_advanced(settings):
    torch.manual_seed(1)
    first = make_training(flip=True, **settings)
    run(first)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = make_training(flip=True, **settings)
    run(second)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights_of(first), weights_of(second))


@pytest.mark.parametrize("loss", LOSSES)
def test_training_learns_what_can_be_learned(loss):
    training = make_training(epochs=60, lr=0.1, loss=loss)
    losses = run(training)
    assert losses[-1] < (0.1 if loss in ("cross_entropy", "focal") else 0.8) * losses[0]
    assert bool((training.predict(0, training.images).argmax(1) == training.labels).all())


@pytest.mark.parametrize("settings", [{"augment": "dsa", "loss": "mixup"}, {"augment": "crop_flip"}], ids=str)
def test_images_are_not_touched(settings):
    training = make_training(flip=True, **settings)
    before = training.images.clone()
    run(training)
    assert torch.equal(training.images, before)


# Soft labels


def softly_labelled(labels, **settings):
    """As `make_training`, with other labels."""
    plain = make_training(**settings)
    images, config = plain.images, plain.config
    return DDNNTraining(images, labels(plain.labels), config, num_classes=3, flip=False, seed=0, stream="train")


def smoothed(labels):
    return 0.8 * F.one_hot(labels, 3).float() + 0.2 / 3


@pytest.mark.parametrize("loss", [*LOSSES, "kl"])
def test_one_hot_labels_train_to_the_bits_of_their_classes(loss):
    settings = {"loss": loss, "augment": "dsa", "kl": {"temperature": 2.0 if loss == "kl" else 1.0}}
    plain = make_training(**settings)
    one_hot = softly_labelled(lambda labels: F.one_hot(labels, 3).float(), **settings)
    assert run(plain) == run(one_hot)
    for index in range(2):
        assert torch.equal(weights_of(plain, index), weights_of(one_hot, index))


@pytest.mark.parametrize("loss", ["cross_entropy", "label_smoothing", "mixup", "kl"])
def test_soft_labels_train(loss):
    soft, plain = softly_labelled(smoothed, loss=loss), make_training(loss=loss)
    assert run(soft) != run(plain)
    assert not torch.equal(weights_of(soft), weights_of(plain))
    again = softly_labelled(smoothed, loss=loss)
    run(again)
    assert torch.equal(weights_of(soft), weights_of(again))


def test_an_epoch_on_soft_labels_has_their_cross_entropy():
    training = softly_labelled(smoothed, batch_size=256, lr=1e-12, networks=1)
    log_p = training.networks[0](training.images).log_softmax(1)
    expected = -(training.labels * log_p).sum(1).mean()
    assert training.step() == pytest.approx(expected.item(), rel=1e-5)


def test_smoothed_labels_are_label_smoothing():
    """The same loss by two ways: 0.2 spread beforehand, or by the loss."""
    soft = softly_labelled(smoothed)
    by_loss = make_training(loss="label_smoothing", label_smoothing={"epsilon": 0.2})
    assert run(soft) == pytest.approx(run(by_loss), rel=1e-4)


def test_the_focal_loss_has_no_soft_form():
    with pytest.raises(ValueError, match=r"train.loss is 'focal', .* use 'cross_entropy'"):
        softly_labelled(smoothed, loss="focal")
