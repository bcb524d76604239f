import itertools

import pytest
import torch

from ddcal.distill import distill
from ddcal.distill.real import random_subset


def positions(dataset, images):
    """Where in train each image is; a training image is never twice in a tiny dataset."""
    return [int((dataset.train.images == image).flatten(1).all(1).nonzero().item()) for image in images]


@pytest.mark.parametrize("ipc", [1, 3, 7])
def test_a_subset_is_ipc_different_training_images_of_each_class(ipc, dataset):
    images, labels = random_subset(dataset, ipc, 0)
    found = positions(dataset, images)
    assert labels.tolist() == [label for label in range(3) for _ in range(ipc)]
    assert torch.equal(dataset.train.labels[found], labels)
    assert len(set(found)) == 3 * ipc


def test_a_larger_subset_contains_the_smaller_one(dataset):
    subsets = [set(positions(dataset, random_subset(dataset, ipc, 4)[0])) for ipc in (1, 2, 5, 7)]
    assert all(small < large for small, large in itertools.pairwise(subsets))


def test_the_seed_decides_the_subset(dataset):
    draws = [tuple(positions(dataset, random_subset(dataset, 2, seed)[0])) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4


def test_all_training_images_are_drawn_sooner_or_later(dataset):
    seen = {p for seed in range(60) for p in positions(dataset, random_subset(dataset, 1, seed)[0])}
    assert seen == set(range(21))


@pytest.mark.parametrize("backbone", ["real", "dc", "dsa"])
def test_more_images_than_a_class_has_are_refused(backbone, dataset, make_config):
    with pytest.raises(ValueError, match=r"distill\.ipc is 8 but class 0 of digits has 7"):
        distill(dataset, make_config(backbone, ipc=8), 0)


def test_a_subset_is_a_copy_of_the_training_images(dataset):
    images, _ = random_subset(dataset, 2, 0)
    images.zero_()
    assert bool((dataset.train.images.flatten(1).abs().sum(1) > 0).all())
