"""MTT with and without MDT against plain autograd through the whole student training, and its experts."""

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddcal.config import NetworkConfig, TrialConfig
from ddcal.config.resolved import resolve_distill
from ddcal.data import augment, draw_augmentation
from ddcal.distill import make_distiller, synthetic_set
from ddcal.distill.experts import Experts, ExpertTraining, skeleton, train_experts, unflatten
from ddcal.distill.mtt import LOWEST_RATE, trajectory_distance
from ddcal.distill.unroll import unroll_gradient
from ddcal.errors import DivergedError
from ddcal.networks import build_network
from ddcal.seeding import generator

SEED = 5
CPU = torch.device("cpu")


def test_the_distance_by_hand():
    """Start 0, target (3, 4), end (3, 0) → 16 / 25, over all parameters together."""
    start, target, end = ([torch.tensor([a]), torch.tensor([b])] for a, b in ((0.0, 0.0), (3.0, 4.0), (3.0, 0.0)))
    assert float(trajectory_distance(end, target, start)) == pytest.approx(16 / 25)
    assert float(trajectory_distance(start, target, start)) == 1.0
    assert float(trajectory_distance(target, target, start)) == 0.0


class Definition:
    """MTT as method.md says, with plain autograd, in float64, from the same random numbers."""

    def __init__(self, dataset, config, experts, images):
        self.dataset, self.config, self.mtt, self.experts = dataset, config, config.mtt, experts
        self.images, self.velocity = images.double(), torch.zeros_like(images).double()
        self.rate, self.rate_velocity = config.mtt.rate, 0.0
        shape = (dataset.channels, dataset.image_size, dataset.num_classes)
        self.network = build_network(config.network.over(NetworkConfig()), *shape, generator(0, "t", "n")).double()
        self.names = [name for name, _ in self.network.named_parameters()]
        self.labels = torch.arange(dataset.num_classes).repeat_interleave(config.ipc)
        if config.mtt.label_lr:  # logits, of the first expert after its last epoch
            self.label_velocity = torch.zeros(len(images), dataset.num_classes, dtype=torch.float64)
            last = experts.weights(0, config.mtt.kept_epochs).double()
            weights = dict(zip(self.names, unflatten(last, self.network), strict=True))
            self.labels = functional_call(self.network, weights, (images.double(),)).detach()

    def run(self, iteration):
        draws = generator(SEED, "distill", "trajectory", iteration)
        expert, begin = (int(torch.randint(n, (1,), generator=draws)) for n in (len(self.experts), self.mtt.max_start))
        start = self.experts.weights(expert, begin).double()
        target = self.experts.weights(expert, begin + self.mtt.expert_epochs).double()
        order = generator(SEED, "distill", "order", iteration)
        size, batches = min(self.mtt.batch or 10**9, len(self.images)), []
        while len(batches) < self.mtt.student_steps:
            shuffled = list(torch.randperm(len(self.images), generator=order).split(size))
            while shuffled:
                batches.append(shuffled.pop(-1 if self.mtt.remainder == "first" else 0))
        leaf = self.images.clone().requires_grad_()
        rate = torch.tensor(self.rate, dtype=torch.float64, requires_grad=True)
        soft = self.mtt.label_lr is not None
        labels = self.labels.clone().requires_grad_() if soft else self.labels
        theta = start.clone().requires_grad_()
        for step, chosen in enumerate(batches[: self.mtt.student_steps]):
            images = leaf[chosen]
            if self.config.mask.ratio:
                stream = generator(SEED, "distill", f"mask-{step}", iteration)
                images = images * (torch.rand(images.shape, generator=stream) >= self.config.mask.ratio)
            stream = generator(SEED, "distill", f"augment-{step}", iteration)
            drawn = draw_augmentation(len(chosen), self.dataset.image_size, stream, siamese=False, flip=False)
            weights = dict(zip(self.names, unflatten(theta, self.network), strict=True))
            logits = functional_call(self.network, weights, (augment(images, drawn),))
            if soft:
                inner = -(labels[chosen].softmax(1) * logits.log_softmax(1)).sum(1).mean()
            else:
                inner = cross_entropy(logits, labels[chosen])
            (gradient,) = torch.autograd.grad(inner, theta, create_graph=True)
            theta = theta - rate * gradient
        loss = (theta - target).square().sum() / (start - target).square().sum()
        image_gradient, rate_gradient, *of_labels = torch.autograd.grad(loss, [leaf, rate, *([labels] if soft else [])])
        if soft:
            self.label_velocity = self.mtt.momentum * self.label_velocity + of_labels[0]
            self.labels = self.labels - self.mtt.label_lr * self.label_velocity
        self.velocity = self.mtt.momentum * self.velocity + image_gradient
        self.images = self.images - self.mtt.image_lr * self.velocity
        self.rate_velocity = self.mtt.momentum * self.rate_velocity + float(rate_gradient)
        self.rate = max(self.rate - self.mtt.rate_lr * self.rate_velocity, LOWEST_RATE)
        return float(loss.detach())


@pytest.mark.parametrize(("batch", "remainder"), [(None, None), (4, None), (4, "first")])
@pytest.mark.parametrize("ratio", [0.0, 0.4])
@pytest.mark.parametrize("gradient", ["exact", "segments", "full"])
def test_iterations_are_those_of_the_definition(gradient, ratio, batch, remainder, dataset, make_config):
    settings = {"gradient": gradient, "batch": batch, "remainder": remainder}
    config = make_config("mtt", mask={"ratio": ratio}, mtt=settings)
    experts = train_experts(dataset, config, SEED, CPU)
    distiller = make_distiller(dataset, config, SEED, experts=experts)
    defined = Definition(dataset, config, experts, distiller.images)
    for iteration in range(3):
        assert distiller.step() == pytest.approx(defined.run(iteration), rel=1e-3)
    torch.testing.assert_close(distiller.images.double(), defined.images, rtol=1e-3, atol=1e-4)
    assert distiller.learning_rate == pytest.approx(defined.rate, rel=1e-4)
    assert distiller.learning_rate != config.mtt.rate


@pytest.mark.parametrize("gradient", ["exact", "segments", "full"])
def test_learned_labels_are_those_of_the_definition(gradient, dataset, make_config):
    config = make_config("mtt", mask={"ratio": 0.3}, mtt={"gradient": gradient, "batch": 4, "label_lr": 20.0})
    experts = train_experts(dataset, config, SEED, CPU)
    distiller = make_distiller(dataset, config, SEED, experts=experts)
    defined = Definition(dataset, config, experts, distiller.images)
    first = distiller.labels
    torch.testing.assert_close(distiller.label_logits.double(), defined.labels, rtol=1e-4, atol=1e-5)
    for iteration in range(3):
        assert distiller.step() == pytest.approx(defined.run(iteration), rel=1e-3)
    torch.testing.assert_close(distiller.images.double(), defined.images, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(distiller.label_logits.double(), defined.labels, rtol=1e-3, atol=1e-4)
    assert torch.equal(distiller.labels, distiller.label_logits.double().softmax(1).float())
    assert float((distiller.labels - first).abs().max()) > 1e-3, "they have moved"


@pytest.mark.parametrize("method", ["exact", "segments", "full"])
def test_gradients_in_labels_are_those_of_autograd_in_float64(method, dataset, make_config):
    """An unrolled student with labels as an input, beside autograd through all of it."""
    network = skeleton(dataset, make_config("mtt"), generator(SEED, "t", "n")).double()
    names = [name for name, _ in network.named_parameters()]
    start = [parameter.detach().clone() for parameter in network.parameters()]
    images, logits = dataset.train.images[:6].double(), torch.randn(6, 3, dtype=torch.float64)
    goal = [value + 0.1 * torch.randn_like(value) for value in start]

    def step_loss(step, parameters, inputs):
        answers = functional_call(network, dict(zip(names, parameters, strict=True)), (inputs[0],))
        return cross_entropy(answers, inputs[1].softmax(1))

    def outer(parameters, inputs):
        return trajectory_distance(parameters, goal, start)

    rate = torch.tensor(0.3, dtype=torch.float64)
    found = unroll_gradient(step_loss, outer, start, [images, logits], rate, 5, method=method, segment=2)
    leaves = [images.clone().requires_grad_(), logits.clone().requires_grad_()]
    theta = [value.clone().requires_grad_() for value in start]
    for step in range(5):
        gradients = torch.autograd.grad(step_loss(step, theta, leaves), theta, create_graph=True)
        theta = [value - 0.3 * gradient for value, gradient in zip(theta, gradients, strict=True)]
    expected = torch.autograd.grad(outer(theta, leaves), leaves)
    for ours, wanted in zip(found.inputs, expected, strict=True):
        assert float((ours - wanted).abs().max()) < 1e-9 and float(wanted.abs().max()) > 1e-4


def test_learned_labels_go_on_from_a_state_and_are_saved(dataset, make_config):
    config = make_config("mtt", iterations=4, mtt={"label_lr": 5.0})
    one, other = (make_distiller(dataset, config, SEED) for _ in range(2))
    for _ in range(2):
        one.step()
    other.restore(one.state())
    for _ in range(2):
        assert one.step() == other.step()
    assert torch.equal(one.labels, other.labels) and torch.equal(one.images, other.images)
    made = synthetic_set(one, dataset, config, SEED)
    assert made.labels.shape == (6, 3) and torch.equal(made.classes, torch.arange(3).repeat_interleave(2))


def test_labels_that_explode_end_the_loop_as_it_was(dataset, make_config):
    distiller = make_distiller(dataset, make_config("mtt", mtt={"label_lr": 1e30}), SEED)
    images, labels = distiller.images.clone(), distiller.labels.clone()
    with pytest.raises(DivergedError, match=r"a label's logit reached .*: lower distill.mtt.label_lr \(1e\+30\)"):
        distiller.step()
    assert torch.equal(distiller.images, images) and torch.equal(distiller.labels, labels)


def test_without_a_rate_of_labels_a_config_says_nothing_of_them(make_config):
    assert "label_lr" not in make_config("mtt").mtt.model_dump()
    assert make_config("mtt", mtt={"label_lr": 2.0}).mtt.model_dump()["label_lr"] == 2.0
    with pytest.raises(ValueError, match="an expert has no answer: use 'real'"):
        TrialConfig.model_validate({"distill": {"backbone": "mtt", "mtt": {"label_lr": 1.0, "init": "noise"}}})


@pytest.mark.parametrize(
    ("remainder", "sizes"), [(None, [4, 2, 4, 2, 4]), ("last", [4, 2, 4, 2, 4]), ("first", [2, 4, 2, 4, 2])]
)
def test_the_smaller_batch_of_a_pass_is_its_last_or_its_first(remainder, sizes, dataset, make_config):
    """Six images in batches of four; every pass takes each image once."""
    config = make_config("mtt", mtt={"batch": 4, "student_steps": 5, "remainder": remainder})
    batches = make_distiller(dataset, config, SEED)._batches()
    order = generator(SEED, "distill", "order", 0)
    passes = [torch.randperm(6, generator=order) for _ in range(3)]
    assert [len(batch) for batch in batches] == sizes
    for number, shuffled in enumerate(passes[:2]):
        whole, left = shuffled[:4], shuffled[4:]
        expected = (left, whole) if remainder == "first" else (whole, left)
        assert all(map(torch.equal, batches[2 * number : 2 * number + 2], expected))


def test_a_rate_that_would_go_below_zero_is_held_and_counted(dataset, make_config):
    config = make_config("mtt", iterations=4, mtt={"rate_lr": 1.0, "rate": 2.0, "image_lr": 1e-6})
    distiller = make_distiller(dataset, config, SEED)
    for _ in range(4):
        distiller.step()
    assert distiller.learning_rate >= LOWEST_RATE
    assert distiller.clamps > 0


@pytest.mark.parametrize("resample", ["step", "iteration", "fixed"])
def test_elements_masked_in_every_step_get_exactly_no_gradient(resample, dataset, make_config):
    config = make_config("mtt", mask={"ratio": 0.6, "resample": resample})
    distiller = make_distiller(dataset, config, SEED)
    distiller.step()
    if resample == "step":  # all images every step, in an order of its own
        order, kept = generator(SEED, "distill", "order", 0), torch.zeros_like(distiller.images, dtype=torch.bool)
        for step in range(4):
            chosen = torch.randperm(6, generator=order)
            stream = generator(SEED, "distill", f"mask-{step}", 0)
            kept[chosen] |= torch.rand(6, 1, 8, 8, generator=stream) >= 0.6
    else:
        kept = torch.rand(6, 1, 8, 8, generator=generator(SEED, "distill", "mask", 0)) >= 0.6
    assert int((~kept).sum()) > 0
    assert bool((distiller.velocity[~kept] == 0).all())
    assert (distiller.velocity[kept] != 0).float().mean() > 0.4


# Experts


def test_snapshots_are_copies_of_every_epoch_and_the_first_is_the_start(dataset, make_config):
    config = make_config("mtt")
    training = ExpertTraining(dataset, config, SEED, 0, CPU)
    before = training.snapshots[0].clone()
    training.step()
    training.step()
    assert torch.equal(training.snapshots[0], before)
    assert len({tuple(s[:5].tolist()) for s in training.snapshots}) == 3
    shape = (dataset.channels, dataset.image_size, dataset.num_classes)
    start = build_network(config.network.over(NetworkConfig()), *shape, generator(SEED, "experts", "network", 0))
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in start.parameters()]))


def test_an_epoch_is_plain_sgd_over_all_training_images(dataset, make_config):
    config = make_config("mtt", mtt={"experts": {"count": 1, "batch_size": 8, "augment": "none", "lr": 0.1}})
    training = ExpertTraining(dataset, config, SEED, 0, CPU)
    network = training.network
    theta = training.snapshots[0].double()
    names = [name for name, _ in network.named_parameters()]
    order = torch.randperm(len(dataset.train), generator=generator(SEED, "experts", "order-0", 0))
    for chosen in order.split(8):
        leaf = theta.clone().requires_grad_()
        weights = dict(zip(names, unflatten(leaf, network), strict=True))
        images = dataset.train.images[chosen].double()
        loss = cross_entropy(functional_call(network, weights, (images,)), dataset.train.labels[chosen])
        theta = theta - 0.1 * torch.autograd.grad(loss, leaf)[0]
    training.step()
    torch.testing.assert_close(training.snapshots[1].double(), theta, rtol=1e-4, atol=1e-5)


def test_only_epochs_that_can_be_read_are_trained(dataset, make_config):
    config = make_config("mtt", mtt={"max_start": 3, "expert_epochs": 2})
    assert config.mtt.kept_epochs == 4
    read = set()

    class Watched(Experts):
        def weights(self, expert, epoch):
            read.add(epoch)
            return super().weights(expert, epoch)

    trained = train_experts(dataset, config, SEED, CPU)
    distiller = make_distiller(dataset, config, SEED, experts=Watched(trained._trajectories))
    for _ in range(25):
        distiller.step()
    assert read == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("precision", "most"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_a_file_gives_the_weights_back_to_its_precision(precision, most, dataset, make_config, tmp_path):
    config = make_config("mtt", mtt={"experts": {"count": 1, "precision": precision}})
    training = ExpertTraining(dataset, config, SEED, 0, CPU)
    training.step()
    exact = torch.cat([p.detach().flatten() for p in training.network.parameters()])
    training.save(tmp_path)
    found = Experts([tmp_path]).weights(0, 1)
    assert found.dtype == torch.float32
    normal = exact.abs() > 1e-4  # below, float16 has fewer digits
    assert float(((found - exact).abs() / exact.abs())[normal].max()) <= most


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_rounding_error_is_that_of_the_stored_weights(precision, dataset, make_config):
    training = ExpertTraining(dataset, make_config("mtt", mtt={"experts": {"precision": precision}}), SEED, 0, CPU)
    training.step()
    exact = torch.cat([p.detach().flatten() for p in training.network.parameters()]).double()
    error = float((training.snapshots[1].double() - exact).norm() / exact.norm())
    assert training.errors[1] == pytest.approx(error, rel=1e-12)
    assert error == 0.0 if precision == "float32" else 1e-5 < error < 1e-2


def test_the_cosine_of_the_approximation_is_that_of_the_two_gradients(dataset, make_config):
    """One iteration from the same start: the images move by the gradient alone."""
    settings = {"iterations": 4, "probe": {"points": 2}}
    tesla, exact = (
        make_distiller(dataset, make_config("mtt", mtt={"gradient": method}, **settings), SEED)
        for method in ("tesla", "exact")
    )
    before = tesla.images.clone()
    tesla.step()
    exact.step()
    moved = [(one.images - before).flatten().double() for one in (tesla, exact)]
    assert tesla.cosines == {1: pytest.approx(float(torch.cosine_similarity(*moved, dim=0)), abs=1e-5)}
    assert exact.cosines == {} and tesla.cosines[1] < 0.999999
    other = make_distiller(dataset, make_config("mtt", mtt={"gradient": "tesla"}, **settings), SEED)
    other.restore(tesla.state())
    for _ in range(3):
        tesla.step()
        other.step()
    assert list(tesla.cosines) == [1, 2, 4] and other.cosines == tesla.cosines
    assert synthetic_set(tesla, dataset, tesla.config, SEED).provenance["gradient"] == {
        "approximation": "tesla",
        "cosine_to_exact": tesla.cosines,
    }


def test_an_expert_goes_on_from_its_state(dataset, make_config):
    config = make_config("mtt", mtt={"experts": {"momentum": 0.9}})
    whole, first, second = (ExpertTraining(dataset, config, SEED, 1, CPU) for _ in range(3))
    first.step()
    second.restore(first.state())
    for training in (whole, second):
        while training.epoch < training.epochs:
            training.step()
    assert torch.equal(torch.stack(whole.snapshots), torch.stack(second.snapshots))
    assert (whole.errors, whole.losses) == (second.errors, second.losses)
    assert len(whole.errors) == len(whole.losses) + 1 == whole.epochs + 1


def test_more_experts_do_not_change_the_first(dataset, make_config):
    one, two = (
        train_experts(dataset, resolve_distill(make_config("mtt", mtt={"experts": {"count": n}}), "digits"), SEED, CPU)
        for n in (1, 2)
    )
    assert torch.equal(one.weights(0, 1), two.weights(0, 1))
    assert not torch.equal(two.weights(0, 1), two.weights(1, 1))
