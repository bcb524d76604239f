"""DC and DSA with and without MDT against their definition, written out with plain autograd and finite differences."""

import pytest
import torch
from torch.nn import functional as F

from ddcal.config import NetworkConfig
from ddcal.data import augment, draw_augmentation
from ddcal.distill import make_distiller, matching
from ddcal.networks import block as whole_block
from ddcal.networks import build_network
from ddcal.seeding import generator

SEED = 5
FLIP = {"digits": False, "cifar10": True}
MASKS = [
    {"ratio": 0.0},
    {"ratio": 0.4},
    {"ratio": 0.4, "resample": "fixed"},
    {"ratio": 0.4, "resample": "iteration", "where": "matching"},
    {"ratio": 0.4, "resample": "step", "where": "inner"},
]


def instance_norm(block, images):
    return F.group_norm(images, images.shape[1])


def logits_of(parameters, images, norm=instance_norm, depth=2):
    """The ConvNet of method.md as one expression of its parameters; ``norm`` is without the affine part."""
    for block in range(depth):
        prefix = f"blocks.{block}"
        images = F.conv2d(images, parameters[f"{prefix}.0.weight"], parameters[f"{prefix}.0.bias"], padding=1)
        weight, bias = parameters[f"{prefix}.1.weight"], parameters[f"{prefix}.1.bias"]
        images = norm(block, images) * weight[:, None, None] + bias[:, None, None]
        images = F.avg_pool2d(F.relu(images), 2)
    return images.flatten(1) @ parameters["classifier.weight"].T + parameters["classifier.bias"]


class Definition:
    """One iteration as method.md and the authors' code define it, from the same random numbers, in float64."""

    def __init__(self, dataset, config, iteration, images, velocity):
        self.dataset, self.config, self.settings = dataset, config, config.matching
        self.images, self.velocity = images.double().clone(), velocity.double().clone()
        self.streams = {
            name: generator(SEED, "distill", name, iteration)
            for name in ("real", "augment", "inner-augment", "order", "statistics")
        }
        mask = config.mask
        self.mask_stream = generator(SEED, "distill", "mask", 0 if mask.resample == "fixed" else iteration)
        self.kept = None
        if mask.ratio > 0 and mask.resample != "step":
            self.kept = torch.rand(images.shape, generator=self.mask_stream) >= mask.ratio
        network = build_network(
            config.network.over(NetworkConfig()),
            dataset.channels,
            dataset.image_size,
            dataset.num_classes,
            generator(SEED, "distill", "network", iteration),
        )
        self.parameters = {name: value.detach().double() for name, value in network.named_parameters()}
        self.statistics = {}

    def norm(self, block, images):
        """Instance norm, or batch norm with the statistics that are fixed, or else with those of the images."""
        if self.config.network.norm != "batch":
            return instance_norm(block, images)
        mean, variance = images.mean((0, 2, 3)), images.var((0, 2, 3), unbiased=False)
        mean, variance = self.statistics.get(block, (mean, variance))
        return (images - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()

    def fix_statistics(self):
        """From 16 real images a class, neither augmented nor masked, anew before each matching."""
        chosen = []
        for label in range(self.dataset.num_classes):
            members = self.dataset.train.indices_of(label)
            chosen.append(members[torch.randperm(len(members), generator=self.streams["statistics"])[:16]])
        found = {}

        def norm(block, images):
            found[block] = images.mean((0, 2, 3)), images.var((0, 2, 3), unbiased=True)
            return self.norm(block, images)

        self.statistics = {}
        logits_of(self.parameters, self.dataset.train.images[torch.cat(chosen)].double(), norm)
        self.statistics = found

    def masked(self, images, index, where):
        mask = self.config.mask
        if mask.ratio == 0.0 or mask.where not in ("both", where):
            return images
        kept = self.kept[index] if self.kept is not None else None
        if kept is None:
            kept = torch.rand(images.shape, generator=self.mask_stream) >= mask.ratio
        return images * kept

    def augmented(self, count, stream, siamese):
        if self.config.backbone == "dc":
            return lambda images: images
        flip = FLIP[self.dataset.name]
        drawn = draw_augmentation(count, self.dataset.image_size, self.streams[stream], siamese=siamese, flip=flip)
        return lambda images: augment(images, drawn)

    def weight_gradients(self, images, labels, create_graph=False):
        parameters = {name: value.clone().requires_grad_() for name, value in self.parameters.items()}
        loss = F.cross_entropy(logits_of(parameters, images, self.norm), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=create_graph)
        return dict(zip(parameters, gradients, strict=True))

    def matching_loss(self, images):
        """The loss of one image update as a function of all images; draws real batches, augmentation and masks."""
        total, ipc = torch.zeros((), dtype=torch.float64), self.config.ipc
        if self.config.network.norm == "batch":
            self.fix_statistics()
        for label in range(self.dataset.num_classes):
            members = self.dataset.train.indices_of(label)
            order = torch.randperm(len(members), generator=self.streams["real"])[: self.settings.real_batch]
            real = self.dataset.train.images[members[order]].double()
            part = slice(label * ipc, (label + 1) * ipc)
            synthetic = self.masked(images[part], part, "matching")
            transform = self.augmented(1, "augment", siamese=True)
            targets = self.weight_gradients(transform(real), torch.full((len(real),), label))
            ours = self.weight_gradients(transform(synthetic), torch.full((ipc,), label), create_graph=True)
            for name, gradient in ours.items():
                if gradient.ndim == 1:
                    continue
                for row, target in zip(gradient.flatten(1), targets[name].flatten(1), strict=True):
                    total = total + 1 - row @ target / (row.norm() * target.norm() + 1e-6)
        return total

    def image_gradient(self):
        leaf = self.images.clone().requires_grad_()
        return torch.autograd.grad(self.matching_loss(leaf), leaf)[0]

    def train_network(self):
        ipc = self.config.ipc
        self.statistics = {}
        labels = torch.arange(self.dataset.num_classes).repeat_interleave(ipc)
        for _ in range(self.settings.inner):
            order = torch.randperm(len(self.images), generator=self.streams["order"])
            for chosen in order.split(self.settings.inner_batch):
                images = self.masked(self.images[chosen], chosen, "inner")
                images = self.augmented(len(chosen), "inner-augment", siamese=False)(images)
                gradients = self.weight_gradients(images, labels[chosen])
                for name, gradient in gradients.items():
                    self.parameters[name] = self.parameters[name] - self.settings.network_lr * gradient

    def run(self):
        for update in range(self.settings.outer):
            if update:
                self.train_network()
            self.velocity = self.settings.image_momentum * self.velocity + self.image_gradient()
            self.images = self.images - self.settings.image_lr * self.velocity
        return self


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("backbone", ["dc", "dsa"])
def test_the_image_gradient_is_that_of_the_written_out_loss(backbone, mask, dataset, make_config):
    config = make_config(backbone, mask=mask, matching={"outer": 1, "init": "noise"})
    distiller = make_distiller(dataset, config, SEED)
    start, rest = distiller.images.clone(), torch.zeros_like(distiller.images)
    distiller.step()  # from rest, the momentum after one update is the gradient

    expected = Definition(dataset, config, 0, start, rest).image_gradient()
    torch.testing.assert_close(distiller.velocity.double(), expected, rtol=1e-3, atol=2e-4)

    shift = 1e-6
    for element in torch.randperm(start.numel(), generator=generator(0, "test", "elements"))[:6].tolist():
        losses = []
        for sign in (1, -1):
            moved = start.double().clone()
            moved.view(-1)[element] += sign * shift
            losses.append(float(Definition(dataset, config, 0, moved, rest).matching_loss(moved).detach()))
        difference = (losses[0] - losses[1]) / (2 * shift)
        assert float(distiller.velocity.view(-1)[element]) == pytest.approx(difference, rel=1e-3, abs=2e-4)


def two_iterations_are_the_definition(dataset, config):
    distiller = make_distiller(dataset, config, SEED)
    images, velocity = distiller.images.clone(), torch.zeros_like(distiller.images)
    for iteration in range(2):
        distiller.step()
        defined = Definition(dataset, config, iteration, images, velocity).run()
        images, velocity = defined.images, defined.velocity
    torch.testing.assert_close(distiller.images.double(), images, rtol=1e-3, atol=3e-4)
    torch.testing.assert_close(distiller.velocity.double(), velocity, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize(("backbone", "name"), [("dc", "digits"), ("dsa", "digits"), ("dsa", "cifar10")])
def test_iterations_are_those_of_the_definition(backbone, name, mask, make_dataset, make_config):
    """Two iterations of two updates: fresh networks, inner epochs, siamese draws, masks, no flip on digits."""
    dataset = make_dataset(name, channels=2)
    config = make_config(backbone, mask=mask, matching={"network_lr": 0.05})
    two_iterations_are_the_definition(dataset, config)


@pytest.mark.parametrize("mask", [{"ratio": 0.0}, {"ratio": 0.4}], ids=str)
@pytest.mark.parametrize("backbone", ["dc", "dsa"])
def test_batch_norm_has_its_statistics_fixed_from_one_real_batch_before_each_matching(
    backbone, mask, make_dataset, make_config
):
    dataset = make_dataset(per_class=25)  # more than the 16 that are taken
    config = make_config(backbone, mask=mask, network={"norm": "batch"}, matching={"network_lr": 0.05, "outer": 3})
    two_iterations_are_the_definition(dataset, config)


def test_images_move_by_sgd_with_momentum(dataset, make_config):
    config = make_config(matching={"outer": 1, "image_lr": 0.25, "image_momentum": 0.75})
    distiller = make_distiller(dataset, config, SEED)
    images, velocity = distiller.images.clone(), torch.zeros_like(distiller.images)
    for iteration in range(3):
        gradient = Definition(dataset, config, iteration, images, velocity).image_gradient()
        distiller.step()
        velocity = 0.75 * velocity + gradient
        images = images - 0.25 * velocity
        torch.testing.assert_close(distiller.images.double(), images, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_both_sides_get_the_same_draw(name, make_dataset, make_config):
    """The whole class as synthetic images matches the whole class as real batch exactly, if augmented alike."""
    dataset = make_dataset(name, channels=3)
    config = make_config("dsa", ipc=7, matching={"outer": 1, "real_batch": 7, "image_lr": 1e-12})
    distiller = make_distiller(dataset, config, SEED)
    for _ in range(12):  # enough draws for every operation
        assert distiller.step() == pytest.approx(0.0, abs=2e-3)


def test_the_loss_is_a_mean_over_classes_and_updates(dataset, make_config):
    config = make_config(matching={"outer": 1})
    distiller = make_distiller(dataset, config, SEED)
    defined = Definition(dataset, config, 0, distiller.images, torch.zeros_like(distiller.images))
    expected = float(defined.matching_loss(defined.images).detach()) / dataset.num_classes
    assert distiller.step() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("backbone", "real"), [("dc", False), ("dsa", True)])
def test_dc_starts_from_noise_and_dsa_from_real_images(backbone, real, dataset, make_config):
    images = make_distiller(dataset, make_config(backbone), SEED).images
    found = [bool((dataset.train.images == image).flatten(1).all(1).any()) for image in images]
    assert found == [real] * 6


@pytest.mark.parametrize(
    ("sizes", "norm", "small", "at_once", "expected"),
    [
        ([4] * 10, "instance", 4, 40, [10]),
        ([4] * 10, "batch", 4, 40, [1] * 10),  # its statistics are of all maps
        ([4] * 10, "instance", 3, 40, [1] * 10),  # too large to win by it
        ([4] * 10, "instance", 4, 15, [3, 3, 3, 1]),  # no more at once
        ([4] * 4 + [3] + [4] * 5, "instance", 4, 40, [4, 1, 5]),  # only as many images each
    ],
)
def test_classes_that_go_side_by_side(dataset, make_config, monkeypatch, sizes, norm, small, at_once, expected):
    config = make_config(network={"norm": norm})
    image = config.network.width * dataset.image_size**2
    monkeypatch.setattr(matching, "SMALL", small * image)
    monkeypatch.setattr(matching, "AT_ONCE", at_once * image)
    distiller = make_distiller(dataset, config, SEED)
    assert [len(run) for run in distiller._runs(distiller.fresh_network(), range(10), sizes)] == expected


@pytest.mark.parametrize("backbone", ["dc", "dsa"])
def test_what_is_differentiated_once_goes_in_parts_to_the_same_images(dataset, make_config, backbone, monkeypatch):
    monkeypatch.setattr(matching, "SMALL", 0)  # one class after the other
    found, taken = [], []
    in_parts = whole_block.norm_relu_pool
    monkeypatch.setattr(whole_block, "norm_relu_pool", lambda *given: taken.append(1) or in_parts(*given))
    for large in (2**60, 0):
        monkeypatch.setattr(whole_block, "LARGE", large)
        distiller = make_distiller(dataset, make_config(backbone), SEED)
        found.append([torch.tensor([distiller.step(), distiller.step()]), distiller.images.clone()])
        assert bool(taken) == (large == 0)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
