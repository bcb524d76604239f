"""Several images in one: the decoder beside explicit loops and `interpolate`, and backbones through it in float64."""

import math

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from ddcal.config import DistillConfig, NetworkConfig, TrialConfig, resolve
from ddcal.data import augment, draw_augmentation
from ddcal.distill import distill, make_distiller, synthetic_set
from ddcal.distill.experts import Experts, skeleton, train_experts, unflatten
from ddcal.distill.formation import decode, packed, strips, tile_weights
from ddcal.distill.real import random_subset
from ddcal.errors import BadInput
from ddcal.networks import build_network
from ddcal.pipeline import Environment, TrialRunner, open_store
from ddcal.pipeline.stages import STAGES
from ddcal.seeding import generator

SEED = 5
CPU = torch.device("cpu")


@pytest.fixture
def double():
    """All that is made without a type is float64: networks, noise, masks."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def decoded_by_hand(stored, factor):
    """Tile by tile and pixel by pixel, from the definition of bilinear enlarging with corners not aligned."""
    count, channels, size = len(stored), stored.shape[1], stored.shape[-1]
    edges = [math.floor(size * k / factor) for k in range(factor + 1)]
    images = torch.zeros(count * factor**2, channels, size, size, dtype=stored.dtype)

    def near(pixel, begin, end):
        """The two pixels of a strip that a pixel lies between, and the share of the second."""
        place = min(max((pixel + 0.5) * (end - begin) / size - 0.5, 0.0), end - begin - 1.0)
        low = math.floor(place)
        return begin + low, min(begin + low + 1, end - 1), place - low

    for n in range(count):
        for i in range(factor):
            for j in range(factor):
                for y in range(size):
                    top, bottom, down = near(y, edges[i], edges[i + 1])
                    for x in range(size):
                        left, right, across = near(x, edges[j], edges[j + 1])
                        upper = (1 - across) * stored[n, :, top, left] + across * stored[n, :, top, right]
                        lower = (1 - across) * stored[n, :, bottom, left] + across * stored[n, :, bottom, right]
                        images[n * factor**2 + i * factor + j, :, y, x] = (1 - down) * upper + down * lower
    return images


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (8, 3), (9, 2), (5, 5), (28, 3), (32, 2)])
def test_a_tile_is_enlarged_bilinearly(size, factor, double):
    stored = torch.randn(2, 2, size, size, generator=generator(0, "test", "stored"))
    found = decode(stored, tile_weights(size, factor))
    tiles = [
        F.interpolate(one[None, :, top:bottom, left:right], size=(size, size), mode="bilinear", align_corners=False)
        for one in stored
        for top, bottom in strips(size, factor)
        for left, right in strips(size, factor)
    ]
    assert found.shape == (2 * factor**2, 2, size, size)
    assert float((found - torch.cat(tiles)).abs().max()) <= 1e-12
    if size < 10:
        assert float((found - decoded_by_hand(stored, factor)).abs().max()) <= 1e-12


@pytest.mark.parametrize(("size", "factor"), [(8, 2), (8, 3), (28, 3), (32, 4)])
def test_strips_cover_all_pixels_and_differ_by_one_at_most(size, factor):
    found = strips(size, factor)
    assert [pixel for begin, end in found for pixel in range(begin, end)] == list(range(size))
    assert max(end - begin for begin, end in found) - min(end - begin for begin, end in found) <= 1


@pytest.mark.parametrize("factor", [2, 3])
def test_some_images_are_those_of_all_and_their_gradient_too(factor, double):
    draws = generator(0, "test", "chosen")
    stored, weights = torch.randn(3, 2, 8, 8, generator=draws).requires_grad_(), tile_weights(8, factor)
    chosen = torch.randperm(3 * factor**2, generator=draws)[:7].repeat(2)  # some twice
    some, every = decode(stored, weights, chosen), decode(stored, weights)[chosen]
    assert float((some - every).detach().abs().max()) <= 1e-12
    cotangent = torch.randn(some.shape, generator=draws)
    ours, theirs = (torch.autograd.grad(one, stored, cotangent)[0] for one in (some, every))
    assert float((ours - theirs).abs().max()) <= 1e-12


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_packed_images_are_means_over_areas(factor, double):
    images = torch.randn(2 * factor**2, 2, 8, 8, generator=generator(0, "test", "images"))
    stored = packed(images, factor)
    edges = [8 * k // factor for k in range(factor + 1)]
    for n, i, j in ((0, 0, 0), (1, factor - 1, 0), (1, 0, factor - 1)):
        tile = stored[n, :, edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
        source = images[n * factor**2 + i * factor + j]
        height, width = tile.shape[1:]
        for y in range(height):
            for x in range(width):
                rows = slice(math.floor(8 * y / height), math.ceil(8 * (y + 1) / height))
                columns = slice(math.floor(8 * x / width), math.ceil(8 * (x + 1) / width))
                assert float((tile[:, y, x] - source[:, rows, columns].mean((1, 2))).abs().max()) <= 1e-12


def test_flat_images_come_back_as_they_were(double):
    """Whatever the sizes: the rows of every matrix sum to 1."""
    flat = torch.arange(18.0)[:, None, None, None].expand(18, 1, 8, 8)
    assert float((decode(packed(flat, 3), tile_weights(8, 3)) - flat).abs().max()) <= 1e-12


# Backbones


def formed(make_config, backbone, factor=2, **settings):
    return make_config(backbone, formation={"factor": factor}, **settings)


@pytest.mark.parametrize("backbone", ["dm", "dsa", "dc", "mtt"])
def test_a_set_holds_what_its_storage_decodes_to(backbone, make_dataset, make_config):
    dataset = make_dataset(per_class=9)
    config = formed(make_config, backbone, mask={"ratio": 0.2})
    distiller = make_distiller(dataset, config, SEED)
    first = distiller.stored.clone()
    while distiller.iteration < distiller.iterations:
        distiller.step()
    made = synthetic_set(distiller, dataset, config, SEED)
    assert distiller.stored.shape == distiller.velocity.shape == (6, 1, 8, 8)
    assert made.images.shape == (24, 1, 8, 8) and (made.ipc, made.images_per_class) == (2, 8)
    assert torch.equal(made.labels, torch.arange(3).repeat_interleave(8))
    assert torch.equal(made.images, decode(distiller.stored, tile_weights(8, 2)))
    assert not torch.equal(distiller.stored, first)
    assert config.model_dump()["formation"] == {"factor": 2}
    assert made.provenance["config"]["formation"] == {"factor": 2}


def test_a_set_begins_as_many_real_images_scaled_down_or_as_noise(make_dataset, make_config):
    dataset = make_dataset(per_class=9)
    real, noise = (
        make_distiller(dataset, formed(make_config, "dm", dm={"init": init}), 3) for init in ("real", "noise")
    )
    images, labels = random_subset(dataset, 8, 3)
    assert torch.equal(real.stored, packed(images, 2)) and torch.equal(real.labels, labels)
    assert torch.equal(noise.stored, torch.randn(6, 1, 8, 8, generator=generator(3, "distill", "init")))
    assert torch.equal(noise.labels, labels)


@pytest.mark.parametrize("mask", [{"ratio": 0.0}, {"ratio": 0.4}, {"ratio": 0.4, "resample": "iteration"}], ids=str)
@pytest.mark.parametrize("factor", [2, 3])
def test_dm_through_the_decoder(factor, mask, double, make_dataset, make_config):
    """The gradient in the stored images of the loss written out on tiles that `interpolate` has enlarged."""
    dataset = make_dataset(per_class=20, channels=2)
    config = formed(make_config, "dm", factor, mask=mask, dm={"real_batch": 5})
    distiller = make_distiller(dataset, config, SEED)
    leaf = distiller.stored.clone().requires_grad_()
    distiller.step()

    streams = {name: generator(SEED, "distill", name, 0) for name in ("real", "augment", "mask")}
    draws = generator(SEED, "distill", "network", 0)
    network = build_network(config.network.over(NetworkConfig()), 2, 8, 3, draws)
    images, count = enlarged(leaf, factor), 2 * factor**2
    if mask.get("resample") == "iteration":
        images = images * (torch.rand(images.shape, generator=streams["mask"]) >= 0.4)
    total = 0.0
    for label in range(3):
        members = dataset.train.indices_of(label)
        chosen = members[torch.randperm(len(members), generator=streams["real"])[:5]]
        drawn = draw_augmentation(1, 8, streams["augment"], siamese=True, flip=False)
        ours = images[label * count : (label + 1) * count]
        if mask == {"ratio": 0.4}:
            ours = ours * (torch.rand(ours.shape, generator=streams["mask"]) >= 0.4)
        difference = network.features(augment(ours, drawn)).mean(0)
        difference = difference - network.features(augment(dataset.train.images[chosen], drawn)).mean(0)
        total = total + difference.square().sum()
    (wanted,) = torch.autograd.grad(total, leaf)
    assert float((distiller.velocity - wanted).abs().max()) <= 1e-9 < 1e-4 < float(wanted.abs().max())


def enlarged(stored, factor):
    size = stored.shape[-1]
    places = strips(size, factor)
    return torch.cat(
        [
            F.interpolate(one[None, :, top:bottom, left:right], size=(size, size), mode="bilinear")
            for one in stored
            for top, bottom in places
            for left, right in places
        ]
    )


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("backbone", ["dc", "dsa"])
def test_gradient_matching_through_the_decoder(backbone, factor, double, make_dataset, make_config):
    """Two updates with an epoch between them, beside plain autograd on tiles that `interpolate` has enlarged."""
    dataset = make_dataset(per_class=20)
    matching = {"outer": 2, "inner": 1, "real_batch": 5, "inner_batch": 7, "network_lr": 0.05, "image_lr": 0.3}
    config = formed(make_config, backbone, factor, matching={"init": "real", **matching}, mask={"ratio": 0.2})
    distiller = make_distiller(dataset, config, SEED)
    images, velocity, count = distiller.stored.clone(), 0.0, 2 * factor**2
    distiller.step()

    names = ("real", "augment", "inner-augment", "order", "mask")
    streams = {name: generator(SEED, "distill", name, 0) for name in names}
    draws = generator(SEED, "distill", "network", 0)
    network = build_network(config.network.over(NetworkConfig()), 1, 8, 3, draws)
    labels, weights = torch.arange(3).repeat_interleave(count), list(network.parameters())

    def masked(part):
        return part * (torch.rand(part.shape, generator=streams["mask"]) >= 0.2)

    def augmented(part, stream, siamese):
        if backbone == "dc":
            return part
        drawn = draw_augmentation(1 if siamese else len(part), 8, streams[stream], siamese=siamese, flip=False)
        return augment(part, drawn) if not siamese else drawn

    for update in range(2):
        if update:
            for chosen in torch.randperm(3 * count, generator=streams["order"]).split(7):
                batch = augmented(masked(enlarged(images, factor)[chosen]), "inner-augment", False)
                gradients = torch.autograd.grad(F.cross_entropy(network(batch), labels[chosen]), weights)
                with torch.no_grad():
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight -= 0.05 * gradient
        leaf, total = images.clone().requires_grad_(), 0.0
        tiles = enlarged(leaf, factor)
        for label in range(3):
            members = dataset.train.indices_of(label)
            chosen = members[torch.randperm(len(members), generator=streams["real"])[:5]]
            real, ours = dataset.train.images[chosen], masked(tiles[label * count : (label + 1) * count])
            if backbone == "dsa":
                drawn = augmented(None, "augment", True)
                real, ours = augment(real, drawn), augment(ours, drawn)
            matched = [
                torch.autograd.grad(
                    F.cross_entropy(network(one), torch.full((len(one),), label)), weights, create_graph=True
                )
                for one in (real, ours)
            ]
            for target, gradient in zip(*matched, strict=True):
                if gradient.ndim > 1:
                    for a, b in zip(gradient.flatten(1), target.detach().flatten(1), strict=True):
                        total = total + 1 - a @ b / (a.norm() * b.norm() + 1e-6)
        (gradient,) = torch.autograd.grad(total, leaf)
        velocity = 0.5 * velocity + gradient
        images = images - 0.3 * velocity
    assert float((distiller.velocity - velocity).abs().max()) <= 1e-9 < 1e-4 < float(velocity.abs().max())
    assert float((distiller.stored - images).abs().max()) <= 1e-9


class InDouble(Experts):
    def weights(self, expert, epoch):
        return super().weights(expert, epoch).double()


@pytest.mark.parametrize("gradient", ["exact", "segments", "full"])
@pytest.mark.parametrize("factor", [2, 3])
def test_trajectory_matching_through_the_decoder(factor, gradient, double, make_dataset, make_config):
    dataset = make_dataset(per_class=20)
    mtt = {"gradient": gradient, "batch": 7, "label_lr": 1.0, "experts": {"count": 1, "batch_size": 8}}
    config = formed(make_config, "mtt", factor, mtt=mtt, mask={"ratio": 0.2})
    experts = InDouble(train_experts(dataset, config, SEED, CPU)._trajectories)
    distiller = make_distiller(dataset, config, SEED, experts=experts)
    before = distiller.label_logits.double()
    distiller._learn_labels(before, torch.zeros_like(before))
    leaf, labels = (value.clone().requires_grad_() for value in (distiller.stored, before))
    distiller.step()

    draws = generator(SEED, "distill", "trajectory", 0)
    torch.randint(1, (1,), generator=draws)
    begin = int(torch.randint(2, (1,), generator=draws))
    network = skeleton(dataset, config, generator(0, "t", "n"))
    names = [name for name, _ in network.named_parameters()]
    start, target = (experts.weights(0, epoch) for epoch in (begin, begin + 1))
    order, batches = generator(SEED, "distill", "order", 0), []
    while len(batches) < 4:
        batches += torch.randperm(3 * 2 * factor**2, generator=order).split(7)
    theta = start.clone().requires_grad_()
    for step, chosen in enumerate(batches[:4]):
        images = enlarged(leaf, factor)[chosen]
        images = images * (torch.rand(images.shape, generator=generator(SEED, "distill", f"mask-{step}", 0)) >= 0.2)
        stream = generator(SEED, "distill", f"augment-{step}", 0)
        images = augment(images, draw_augmentation(len(chosen), 8, stream, siamese=False, flip=False))
        answers = functional_call(network, dict(zip(names, unflatten(theta, network), strict=True)), (images,))
        loss = F.cross_entropy(answers, labels[chosen].softmax(1))
        theta = theta - config.mtt.rate * torch.autograd.grad(loss, theta, create_graph=True)[0]
    outer = (theta - target).square().sum() / (start - target).square().sum()
    wanted, of_labels = torch.autograd.grad(outer, [leaf, labels])
    assert float((distiller.velocity - wanted).abs().max()) <= 1e-9 < 1e-4 < float(wanted.abs().max())
    assert float((before - distiller.label_logits - of_labels).abs().max()) <= 1e-9
    assert distiller.labels.shape == (6 * factor**2, 3)


@pytest.mark.parametrize("backbone", ["dm", "dsa", "dc", "mtt"])
def test_a_factor_of_one_is_no_decoder_to_the_bit(backbone, dataset, make_config):
    plain, one = make_config(backbone), formed(make_config, backbone, 1)
    assert plain == one and "formation" not in one.model_dump()
    distiller = make_distiller(dataset, one, SEED)
    assert distiller.images is distiller.stored and distiller.tiles is None
    assert distiller.per_class == 2


@pytest.mark.parametrize(
    ("backbone", "resample"), [("dm", "step"), ("dsa", "iteration"), ("dc", "step"), ("mtt", "step")]
)
def test_an_interrupted_run_ends_on_the_same_bits(backbone, resample, make_dataset, make_config):
    dataset = make_dataset(per_class=9)
    settings = {"mtt": {"label_lr": 2.0, "batch": 5}} if backbone == "mtt" else {}
    config = formed(make_config, backbone, mask={"ratio": 0.3, "resample": resample}, **settings)
    undisturbed = distill(dataset, config, SEED)
    for stop in (1, 2):
        first, second = (make_distiller(dataset, config, SEED) for _ in range(2))
        for _ in range(stop):
            first.step()
        second.restore(first.state())
        while second.iteration < second.iterations:
            second.step()
        assert torch.equal(second.images, undisturbed.images)
        assert torch.equal(second.labels, undisturbed.labels)


def test_masked_elements_of_decoded_images_get_no_gradient(make_dataset, make_config):
    """A mask that leaves nothing of the tiles of one stored image leaves it where it is."""
    dataset = make_dataset(per_class=9)
    distiller = make_distiller(dataset, formed(make_config, "dm", mask={"ratio": 0.5, "resample": "fixed"}), SEED)
    distiller.mask.begin(0, distiller.shape)
    distiller.mask._kept[:4] = False
    distiller.mask.begin = lambda *_: None
    distiller.step()
    assert bool((distiller.velocity[0] == 0).all())
    assert all(bool((one != 0).any()) for one in distiller.velocity[1:])


# Configs and costs


@pytest.mark.parametrize(
    ("backbone", "why"),
    [
        ("real", "its images are real ones"),
        ("full", "its images are real ones"),
        ("rtp", "its images are decoded from bases already"),
        ("file", "its images are those of the file"),
    ],
)
def test_backbones_that_cannot_say_why(backbone, why):
    with pytest.raises(ValueError, match=rf"formation\.factor is 2, but images of {backbone} cannot.*{why}"):
        DistillConfig.model_validate({"backbone": backbone, "formation": {"factor": 2}})


def test_images_too_few_or_too_small_are_named(dataset, make_config, make_dataset):
    with pytest.raises(ValueError, match=r"distill\.ipc is 2 and a stored image begins as 4 real ones but class 0"):
        make_distiller(dataset, formed(make_config, "dm"), SEED)
    with pytest.raises(BadInput, match=r"distill\.formation\.factor is 5, but images have 4 pixels a side"):
        make_distiller(make_dataset(size=4), formed(make_config, "dm", 5), SEED)


def test_what_a_trial_with_more_images_costs_and_holds():
    def trial(factor, **distill):
        values = {"backbone": "dm", "ipc": 1, "formation": {"factor": factor}, **distill}
        return resolve(
            TrialConfig.model_validate({"data": {"name": "cifar10"}, "distill": values, "train": {"holdout": 0.25}})
        )

    with pytest.raises(ValueError, match=r"train\.holdout 0\.25 leaves no image to train on at distill\.ipc 1"):
        trial(1)
    two, three = trial(2), trial(3)
    assert two.distill.spec.images_per_class(two.distill, 10, 3, 32) == 4
    for stage in ("distill", "train"):
        kinds = [STAGES[stage].kind(one).identity for one in (two, three)]
        assert kinds[0] != kinds[1], stage
        memory = [STAGES[stage].memory(one) for one in (two, three)]
        assert memory[0] != memory[1], stage
    assert "3 images a class" in STAGES["train"].kind(two).what
    assert "distill.formation.factor (2 → 1)" in STAGES["distill"].what_to_halve(two)
    for backbone in ("dsa", "mtt"):
        one = trial(4, backbone=backbone)
        assert "distill.formation.factor (4 → 2)" in STAGES["distill"].what_to_halve(one)


def test_a_whole_trial_on_digits(tmp_path):
    values = {
        "network": {"width": 4},
        "distill": {
            **{"backbone": "dm", "ipc": 1, "iterations": 4, "formation": {"factor": 2}, "mask": {"ratio": 0.1}},
            "probe": {"points": 2, "epochs": 1},
        },
        "train": {"epochs": 3, "networks": 1},
        "calibrate": {"method": "ts_cv", "folds": 2},
    }
    config = TrialConfig.model_validate(values)
    runner = TrialRunner(config, open_store(tmp_path / "store"), Environment("cpu", 1))
    metrics = runner.run()
    assert 0.0 <= metrics["test/accuracy"] <= 1.0
    assert "pictures.safetensors" in runner.entries["distill"].files
    cut = TrialRunner(config, open_store(tmp_path / "cut"), Environment("cpu", 1))
    for _ in range(3):
        cut.advance()
    state = cut.state()
    cut.close()
    other = TrialRunner(config, open_store(tmp_path / "cut"), Environment("cpu", 1))
    other.restore(state)
    assert other.run() == metrics
    assert other.entries["distill"].files == runner.entries["distill"].files
