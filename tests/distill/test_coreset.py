"""Coresets against plain loops in numpy: which images herding, k-centre and EL2N take, and in which order."""

import numpy as np
import pytest
import torch

from ddcal.config import DistillConfig, NetworkConfig
from ddcal.data import Split
from ddcal.distill import distill, make_distiller
from ddcal.distill.coreset import el2n, features, first_lowest, herded, in_order, spread
from ddcal.distill.experts import train_experts
from ddcal.networks import build_network

BACKBONES = ("herding", "k_center", "el2n", "rded")


@pytest.fixture
def points():
    return torch.randn(23, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def settings(backbone, coreset=None, **changes):
    values = {"backbone": backbone, "ipc": 3, "network": {"width": 5, "depth": 2}, "coreset": coreset or {}}
    values["mtt"] = {"experts": {"epochs": 3, "batch_size": 8, "lr": 0.05}}
    return DistillConfig.model_validate(values | changes)


def positions(dataset, images):
    """Where in train each image is, the first of equal ones."""
    return [int((dataset.train.images == image).flatten(1).all(1).nonzero()[0]) for image in images]


def replaced(dataset, images, labels):
    """The dataset with other training images."""
    split = Split(images, labels)
    return type(dataset)(**{name: getattr(dataset, name) for name in dataset.__dataclass_fields__} | {"train": split})


def slow_herding(points, count):
    """Try every candidate, and take the mean of what would be taken anew each time."""
    mean, taken = points.mean(0), []
    for _ in range(count):
        distances = {
            index: np.sqrt(((points[[*taken, index]].mean(0) - mean) ** 2).sum())
            for index in range(len(points))
            if index not in taken
        }
        taken.append(min(distances, key=lambda index: (distances[index], index)))
    return taken


def slow_k_centre(points, count):
    """From the matrix of all distances: the largest of the smallest to those taken."""
    matrix = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    start = np.sqrt(((points - points.mean(0)) ** 2).sum(1)).argmin()
    taken = [int(start)]
    while len(taken) < count:
        nearest = {index: matrix[index, taken].min() for index in range(len(points)) if index not in taken}
        taken.append(max(nearest, key=lambda index: (nearest[index], -index)))
    return taken


@pytest.mark.parametrize("count", [1, 2, 7, 23])
def test_herding_takes_what_trying_every_candidate_takes(points, count):
    assert herded(points, count) == slow_herding(points.numpy(), count)


@pytest.mark.parametrize("count", [1, 2, 7, 23])
def test_k_centre_takes_what_the_matrix_of_distances_says(points, count):
    assert spread(points, count) == slow_k_centre(points.numpy(), count)


def test_k_centre_covers_within_twice_the_best_radius(points):
    """Gonzalez' bound, which holds whatever it starts from: of every other three centres, tried one by one."""
    small = points[:12]
    matrix = torch.cdist(small, small)

    def radius(centres):
        return float(matrix[:, centres].min(1).values.max())

    best = min(radius([a, b, c]) for a in range(12) for b in range(a) for c in range(b))
    assert best <= radius(spread(small, 3)) <= 2.0 * best


def test_herding_comes_nearer_to_the_mean_than_random_points(points):
    def far(chosen):
        return float((points[chosen].mean(0) - points.mean(0)).norm())

    draws = torch.Generator().manual_seed(0)
    random = [far(torch.randperm(23, generator=draws)[:5]) for _ in range(100)]
    assert sum(far(herded(points, 5)) < one for one in random) > 90


@pytest.mark.parametrize("choose", [herded, spread])
def test_equal_points_are_taken_in_their_order(choose):
    """Also where they differ by what float32 cannot tell apart."""
    same = torch.full((5, 3), 2.0, dtype=torch.float64)
    same[2] += 1e-7
    assert choose(same, 5) == [0, 1, 2, 3, 4]
    assert choose(torch.zeros(4, 2, dtype=torch.float64), 3) == [0, 1, 2]


def test_an_outlier_is_the_second_centre_and_brings_the_mean_nearer_only_later():
    """The mean of 0, 1, 2, 3 and 100 is 21.2: 3 is nearest; 2.5 of 3 and 2 is nearer than 51.5 of 3 and 100; but 35 of
    all three is nearer than 2 of 3, 2 and 1; then 26.25 with 0 is nearer than 26.5 with 1."""
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]], dtype=torch.float64)
    assert herded(line, 5) == [3, 2, 4, 0, 1]
    assert spread(line, 3)[:2] == [3, 4]


def test_scores_are_taken_from_the_lowest_on_and_the_first_of_equal_ones():
    scores = torch.tensor([0.3, 0.1, 0.1 * (1 + 1e-7), 0.1, 7.0, 0.2], dtype=torch.float64)
    assert in_order(scores, 6) == [1, 2, 3, 5, 0, 4]
    assert in_order(-scores, 3) == [4, 0, 5]
    assert first_lowest(torch.tensor([2.0, 1.0 + 1e-3, 1.0]), 1e-2) == 1


def networks_of(dataset, count):
    make = torch.Generator().manual_seed(5)
    network = NetworkConfig(width=5, depth=2)
    shape = (dataset.channels, dataset.image_size, dataset.num_classes)
    return [build_network(network, *shape, make).eval() for _ in range(count)]


def test_el2n_is_the_mean_length_of_the_error(dataset):
    networks, images = networks_of(dataset, 3), dataset.train.images
    expected = []
    with torch.no_grad():
        for image in images:
            lengths = []
            for network in networks:
                logits = network(image[None])[0].double().numpy()
                p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
                p[1] -= 1.0
                lengths.append(np.sqrt((p**2).sum()))
            expected.append(np.mean(lengths))
    np.testing.assert_allclose(el2n(networks, images, 1).numpy(), expected, rtol=1e-5)


def test_features_are_those_before_the_classifier_side_by_side(dataset):
    networks, images = networks_of(dataset, 2), dataset.train.images
    found = features(networks, images)
    with torch.no_grad():
        for place, network in enumerate(networks):
            part = found.chunk(2, 1)[place].float()
            torch.testing.assert_close(network.classifier(part), network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "coreset"),
    [("herding", {}), ("k_center", {"experts": 2}), ("el2n", {"epoch": 1}), ("el2n", {"hardest": True, "experts": 2})],
)
def test_a_set_is_what_the_experts_say_of_the_training_images(backbone, coreset, dataset):
    """Written out: experts trained here, their weights after the epoch, every class by itself."""
    config = settings(backbone, coreset)
    made = make_distiller(dataset, config, 7)
    made.step()
    resolved, count, expected = made.config, made.config.coreset.experts, []
    experts = train_experts(dataset, resolved, 7, torch.device("cpu"), count=count)
    networks = networks_of(dataset, count)
    for index, network in enumerate(networks):
        vector = experts.weights(index, coreset.get("epoch", 3))
        torch.nn.utils.vector_to_parameters(vector, network.parameters())
    for label in range(3):
        indices = (dataset.train.labels == label).nonzero().flatten().tolist()
        images = dataset.train.images[indices]
        if backbone == "el2n":
            errors = el2n(networks, images, label).numpy()
            order = sorted(range(len(indices)), key=lambda i: -errors[i] if coreset.get("hardest") else errors[i])[:3]
        else:
            slow = slow_herding if backbone == "herding" else slow_k_centre
            order = slow(features(networks, images).numpy(), 3)
        expected += [indices[i] for i in order]
    assert positions(dataset, made.images) == expected
    assert made.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("backbone", BACKBONES[:3])
def test_a_larger_set_begins_with_the_smaller_one_and_the_largest_has_all(backbone, dataset):
    sets = {ipc: distill(dataset, settings(backbone, ipc=ipc), 0) for ipc in (1, 4, 7)}
    of_class = {
        ipc: [positions(dataset, one.images[i * ipc : (i + 1) * ipc]) for i in range(3)] for ipc, one in sets.items()
    }
    for label in range(3):
        small, large, every = (of_class[ipc][label] for ipc in (1, 4, 7))
        assert large[:1] == small and every[:4] == large
        assert sorted(every) == dataset.train.indices_of(label).tolist()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_seed_decides_everything(backbone, dataset):
    first, again, other = (distill(dataset, settings(backbone), seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_val_and_test_are_not_seen(backbone, dataset):
    fields = {name: getattr(dataset, name) for name in dataset.__dataclass_fields__}
    fields |= {
        name: Split(torch.full((1, 1, 8, 8), torch.nan), torch.zeros(1, dtype=torch.int64)) for name in ("val", "test")
    }
    blind = distill(type(dataset)(**fields), settings(backbone), 0)
    assert torch.equal(blind.images, distill(dataset, settings(backbone), 0).images)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_classes_may_have_one_image_and_images_may_be_the_same(backbone, dataset):
    """The first class has one image, the second the same image five times, the third some twice."""
    images = torch.cat(
        [
            dataset.train.images[:1],
            dataset.train.images[1:2].expand(5, 1, 8, 8),
            dataset.train.images[2:5],
            dataset.train.images[2:5],
        ]
    )
    labels = torch.tensor([0] + [1] * 5 + [2] * 6)
    few = replaced(dataset, images, labels)
    made = distill(few, settings(backbone, ipc=1), 0)
    assert bool(torch.isfinite(made.images).all()) and made.labels.tolist() == [0, 1, 2]
    if backbone != "rded":
        assert torch.equal(made.images[:2], images[:2])
    with pytest.raises(ValueError, match=r"distill\.ipc is 2 but class 0 of digits has 1 training images"):
        distill(few, settings(backbone, ipc=2), 0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_state_of_after_the_step_needs_no_step(backbone, dataset):
    experts = train_experts(
        dataset, make_distiller(dataset, settings(backbone), 0).config, 0, torch.device("cpu"), count=5
    )
    first, second = (make_distiller(dataset, settings(backbone), 0, experts=experts) for _ in range(2))
    first.step()
    second.restore(first.state())
    assert second.iteration == 1 and torch.equal(second.images, first.images)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_colours_and_another_network(backbone, make_dataset):
    dataset = make_dataset("cifar10", channels=3)
    made = distill(dataset, settings(backbone, network={"name": "mlp", "width": 6}), 0)
    assert made.images.shape == (9, 3, 8, 8) and len(made.images.flatten(1).unique(dim=0)) == 9


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": {"norm": "batch"}}, "experts keep their weights and no running statistics"),
        ({"coreset": {"epoch": 4}}, "coreset.epoch is 4, but experts end after epoch 3"),
        ({"coreset": {"experts": 0}}, "greater than"),
    ],
)
def test_what_cannot_be_is_refused(backbone, changes, said):
    with pytest.raises(ValueError, match=said):
        settings(backbone, **changes)
