"""RTP with and without MDT against plain autograd through the whole unrolled training; its budget and how it begins."""

import math

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddcal.config import NetworkConfig
from ddcal.config.augmentations import operations_of
from ddcal.config.backbones.rtp import decoded_per_class
from ddcal.data import augment, draw_augmentation
from ddcal.distill import distill, make_distiller
from ddcal.distill.formation import enlarging_weights
from ddcal.distill.rtp import decode
from ddcal.networks import build_network
from ddcal.seeding import generator

SEED = 5


def test_the_published_budget_of_cifar10():
    """method.md: 16 bases of 16×16 and 115 coefficient vectors a class at one image a class."""
    assert decoded_per_class(1, 10, 3, 32, 16, 2) == 115


@pytest.mark.parametrize(("ipc", "bases"), [(1, 1), (1, 16), (3, 40), (10, 200)])
def test_a_budget_is_never_exceeded_and_used_up(ipc, bases):
    count = decoded_per_class(ipc, 10, 3, 32, bases, 2)
    numbers = bases * 3 * 16 * 16 + 10 * count * bases
    assert numbers <= ipc * 10 * 3 * 32 * 32 < numbers + 10 * bases


def test_bases_that_leave_no_room_are_refused(dataset, make_config):
    with pytest.raises(ValueError, match=r"distill\.rtp\.bases is 25"):
        make_distiller(dataset, make_config("rtp", ipc=2, rtp={"bases": 25, "downsample": 1}), SEED)


def test_an_image_is_a_combination_of_enlarged_bases():
    bases = torch.stack([torch.ones(1, 4, 4), torch.eye(4)[None]])
    found = decode(bases, torch.tensor([[2.0, 0.0], [1.0, -1.0]]), 8)
    enlarged = torch.nn.functional.interpolate(bases, scale_factor=2, mode="bilinear")
    assert torch.equal(found[0], torch.full((1, 8, 8), 2.0))
    torch.testing.assert_close(found[1], 1.0 - enlarged[1])


@pytest.mark.parametrize(("side", "size"), [(4, 8), (16, 32), (14, 28), (11, 32), (8, 8)])
def test_two_matrices_enlarge_as_interpolate_does(side, size):
    draws = generator(0, "test", "bases")
    bases = torch.randn(3, 2, side, side, generator=draws).requires_grad_()
    coefficients, weights = torch.randn(4, 3, generator=draws), enlarging_weights(size, side).float()
    assert weights.shape == (size, side) and torch.allclose(weights.sum(1), torch.ones(size))
    found, wanted = (decode(bases, coefficients, size, one) for one in (weights, None))
    cotangent = torch.randn(found.shape, generator=draws)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(one, bases, cotangent)[0] for one in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_bases_and_coefficients_begin_as_xavier_uniform_matrices(make_dataset, make_config):
    """Of (R, C·s²) and (K·n, R): CIFAR-10's bounds at one image a class are 0.0875 and 0.0717."""
    dataset = make_dataset(classes=10, per_class=1, channels=3, size=32)
    bases, coefficients = make_distiller(dataset, make_config("rtp", ipc=1, rtp={"bases": 16}), SEED).memories
    assert bases.shape == (16, 3, 16, 16) and coefficients.shape == (1150, 16)
    for found, bound in ((bases, math.sqrt(6 / (16 + 768))), (coefficients, math.sqrt(6 / (1150 + 16)))):
        assert 0.999 * bound < found.abs().max() <= bound
        assert float(found.var()) == pytest.approx(bound**2 / 3, rel=0.02)
        assert float(found.mean()) == pytest.approx(0.0, abs=0.02 * bound)


class Definition:
    """RTP as method.md says, with plain autograd, in float64, from the same random numbers."""

    def __init__(self, dataset, config, memories, per_class):
        self.dataset, self.config, self.rtp, self.per_class = dataset, config, config.rtp, per_class
        self.memories = [m.double() for m in memories]
        self.velocity = [torch.zeros_like(m) for m in self.memories]
        self.labels = torch.arange(dataset.num_classes).repeat_interleave(per_class)
        self.operations = operations_of(config.rtp.augment)

    def run(self, iteration):
        dataset, rtp, size = self.dataset, self.rtp, self.dataset.image_size
        shape = (dataset.channels, size, dataset.num_classes)
        draws = generator(SEED, "distill", "network", iteration)
        network = build_network(self.config.network.over(NetworkConfig()), *shape, draws).double()
        stream = generator(SEED, "distill", "augment", iteration)
        flip, some = dataset.name == "cifar10", self.operations
        drawn = draw_augmentation(1, size, stream, siamese=True, flip=flip, operations=some) if some else None
        self.drawn = drawn and drawn.operation

        def augmented(images):
            return augment(images, drawn) if drawn else images

        order, real_draws = (
            generator(SEED, "distill", "order", iteration),
            generator(SEED, "distill", "real", iteration),
        )
        batch = min(rtp.batch_per_class, self.per_class)
        chosen = []
        for _ in range(rtp.steps):
            ranks = torch.rand(dataset.num_classes, self.per_class, generator=order).argsort(1)[:, :batch]
            chosen.append(torch.cat([row + label * self.per_class for label, row in enumerate(ranks)]))
        leaves = [m.clone().requires_grad_() for m in self.memories]
        weights = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
        velocity = dict.fromkeys(weights, 0.0)
        for step, index in enumerate(chosen):
            images = decode(leaves[0], leaves[1][index], size) if rtp.bases else leaves[0][index]
            if self.config.mask.ratio:
                stream = generator(SEED, "distill", f"mask-{step}", iteration)
                images = images * (torch.rand(images.shape, generator=stream) >= self.config.mask.ratio)
            loss = cross_entropy(functional_call(network, weights, (augmented(images),)), self.labels[index])
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            for (name, value), gradient in zip(weights.items(), gradients, strict=True):
                velocity[name] = rtp.inner_momentum * velocity[name] + gradient
                weights[name] = value - rtp.inner_lr * velocity[name]
        real, labels = [], []
        for label in range(dataset.num_classes):
            members = dataset.train.indices_of(label)
            members = members[torch.randperm(len(members), generator=real_draws)[: rtp.real_batch]]
            real.append(dataset.train.images[members].double())
            labels += [label] * len(members)
        outer = cross_entropy(functional_call(network, weights, (augmented(torch.cat(real)),)), torch.tensor(labels))
        if rtp.regularisation:
            outer = outer + rtp.regularisation * leaves[1].norm()
        gradients = torch.autograd.grad(outer, leaves)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        scale = min(1.0, rtp.clip / float(norm + 1e-6))
        for i, gradient in enumerate(gradients):
            self.velocity[i] = rtp.momentum * self.velocity[i] + scale * gradient
            self.memories[i] = self.memories[i] - rtp.lr * self.velocity[i]
        return float(outer.detach())


@pytest.mark.parametrize(
    "settings",
    [
        *({}, {"gradient": "segments"}, {"clip": 0.01}, {"regularisation": 0.1}, {"bases": 0}),
        *({"augment": "none"}, {"bases": 0, "init": "noise", "augment": "none"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_iterations_are_those_of_the_definition(settings, ratio, dataset, make_config):
    config = make_config("rtp", mask={"ratio": ratio}, rtp=settings)
    distiller = make_distiller(dataset, config, SEED)
    defined = Definition(dataset, config, distiller.memories, distiller.per_class)
    for iteration in range(2):
        assert distiller.step() == pytest.approx(defined.run(iteration), rel=1e-4)
    for found, expected in zip(distiller.memories, defined.memories, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_flip_and_rotation_alone_are_drawn_where_they_are_asked_for(make_dataset, make_config):
    """Of the real images and of every step alike; a distiller that drew others would leave the definition."""
    dataset, drawn = make_dataset("cifar10"), set()
    config = make_config("rtp", rtp={"augment": "flip_rotate", "steps": 2})
    distiller = make_distiller(dataset, config, SEED)
    defined = Definition(dataset, config, distiller.memories, distiller.per_class)
    for iteration in range(6):
        assert distiller.step() == pytest.approx(defined.run(iteration), rel=1e-4)
        drawn.add(defined.drawn)
    assert drawn == {"flip", "rotate"}
    for found, expected in zip(distiller.memories, defined.memories, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_images_without_bases_begin_real_or_as_noise_that_is_xaviers(make_dataset, make_config):
    """The matrix (K·ipc, C·S²) of the authors' code: at CIFAR-10's size and one image a class a bound of 0.0441."""
    dataset = make_dataset(classes=10, per_class=1, channels=3, size=32)
    noise, real = (
        make_distiller(dataset, make_config("rtp", ipc=1, rtp={"bases": 0, "init": init}), SEED).images
        for init in ("noise", "real")
    )
    bound = math.sqrt(6 / (10 + 3072))
    assert noise.shape == real.shape == (10, 3, 32, 32)
    assert 0.999 * bound < noise.abs().max() <= bound
    assert float(noise.var()) == pytest.approx(bound**2 / 3, rel=0.02)
    assert torch.equal(real, dataset.train.images[[int(dataset.train.indices_of(label)) for label in range(10)]])


def test_the_set_holds_the_decoded_images_of_the_budget(dataset, make_config):
    config = make_config("rtp", rtp={"bases": 3})
    found = distill(dataset, config, SEED)
    count = decoded_per_class(2, 3, 1, 8, 3, 2)  # (384 − 48) / 9
    assert count == 37
    assert found.images.shape == (3 * count, 1, 8, 8)
    assert (found.ipc, found.images_per_class) == (2, count)
    assert torch.equal(found.labels, torch.arange(3).repeat_interleave(count))


def test_masked_elements_of_learned_images_get_exactly_no_gradient(dataset, make_config):
    config = make_config("rtp", mask={"ratio": 0.6, "resample": "iteration"}, rtp={"bases": 0})
    distiller = make_distiller(dataset, config, SEED)
    distiller.step()
    kept = torch.rand(6, 1, 8, 8, generator=generator(SEED, "distill", "mask", 0)) >= 0.6
    assert bool((distiller.velocity[0][~kept] == 0).all())
    assert (distiller.velocity[0][kept] != 0).float().mean() > 0.3
