"""DM with and without MDT against its definition, written out in float64."""

import pytest
import torch

from ddcal.config import NetworkConfig
from ddcal.data import augment, draw_augmentation
from ddcal.distill import make_distiller
from ddcal.distill.dm import mean_difference
from ddcal.networks import build_network
from ddcal.seeding import generator

SEED = 5


def test_the_difference_by_hand():
    """Means (2, 3) and (1, 5): 1 + 4; of one class each, whatever the counts."""
    synthetic = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    real = torch.tensor([[1.0, 5.0], [0.0, 4.0], [2.0, 6.0]])
    assert float(mean_difference(synthetic, real)) == 5.0
    assert float(mean_difference(real, real.flip(0))) == 0.0


def test_its_gradient_is_closed_form():
    """d/ds of ‖mean(s) − m‖² is 2·(mean(s) − m)/n for every row."""
    draws = generator(0, "test", "dm")
    synthetic = torch.randn(4, 3, generator=draws, dtype=torch.float64, requires_grad=True)
    real = torch.randn(6, 3, generator=draws, dtype=torch.float64)
    (found,) = torch.autograd.grad(mean_difference(synthetic, real), synthetic)
    expected = 2 * (synthetic.detach().mean(0) - real.mean(0)) / 4
    torch.testing.assert_close(found, expected.expand(4, 3))


def defined_gradient(dataset, config, iteration, images):
    streams = {name: generator(SEED, "distill", name, iteration) for name in ("real", "augment")}
    mask_stream = generator(SEED, "distill", "mask", iteration)
    shape = (dataset.channels, dataset.image_size, dataset.num_classes)
    network = build_network(
        config.network.over(NetworkConfig()), *shape, generator(SEED, "distill", "network", iteration)
    ).double()
    leaf = images.double().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for label in range(dataset.num_classes):
        members = dataset.train.indices_of(label)
        chosen = members[torch.randperm(len(members), generator=streams["real"])[: config.dm.real_batch]]
        drawn = draw_augmentation(1, dataset.image_size, streams["augment"], siamese=True, flip=False)
        synthetic = leaf[label * config.ipc : (label + 1) * config.ipc]
        if config.mask.ratio:
            synthetic = synthetic * (torch.rand(synthetic.shape, generator=mask_stream) >= config.mask.ratio)
        ours = network.features(augment(synthetic, drawn)).mean(0)
        theirs = network.features(augment(dataset.train.images[chosen].double(), drawn)).mean(0)
        total = total + ((ours - theirs) ** 2).sum()
    return float(total.detach()), torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_iterations_are_those_of_the_definition(ratio, dataset, make_config):
    config = make_config("dm", mask={"ratio": ratio}, dm={"real_batch": 5, "image_lr": 0.7})
    distiller = make_distiller(dataset, config, SEED)
    images, velocity = distiller.images.double(), torch.zeros_like(distiller.images).double()
    for iteration in range(3):
        loss, gradient = defined_gradient(dataset, config, iteration, images)
        assert distiller.step() == pytest.approx(loss / dataset.num_classes, rel=1e-4)
        velocity = 0.5 * velocity + gradient
        images = images - 0.7 * velocity
        torch.testing.assert_close(distiller.images.double(), images, rtol=1e-4, atol=1e-5)


def test_masked_elements_get_exactly_no_gradient(dataset, make_config):
    distiller = make_distiller(dataset, make_config("dm", mask={"ratio": 0.5}), SEED)
    distiller.step()
    stream = generator(SEED, "distill", "mask", 0)
    kept = torch.cat([torch.rand(2, 1, 8, 8, generator=stream) >= 0.5 for _ in range(3)])
    assert bool((distiller.velocity[~kept] == 0).all())
    assert (distiller.velocity[kept] != 0).float().mean() > 0.4


def test_the_whole_class_as_synthetic_images_matches_itself(dataset, make_config):
    distiller = make_distiller(dataset, make_config("dm", ipc=7, dm={"real_batch": 7}), SEED)
    assert distiller.step() == pytest.approx(0.0, abs=1e-8)
