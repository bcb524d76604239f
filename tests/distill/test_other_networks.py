"""Every backbone distills with every network."""

import pytest
import torch

from ddcal.distill import distill, make_distiller

NETWORKS = {
    "mlp": (8, {"width": 6}),
    "lenet": (16, {}),
    "alexnet": (8, {"width": 4}),
    "vgg11": (32, {"width": 2}),
    "resnet18": (16, {"width": 2}),
}


@pytest.mark.parametrize("backbone", ["dc", "dsa", "dm", "mtt", "rtp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_images_move_and_stay_finite(name, backbone, make_dataset, make_config):
    size, network = NETWORKS[name]
    dataset = make_dataset(size=size)
    small = {"mtt": {"student_steps": 2, "image_lr": 0.01, "experts": {"count": 1}}, "rtp": {"steps": 2}}
    network = {"name": name, "width": None, "depth": None, **network}
    distiller = make_distiller(dataset, make_config(backbone, network=network, **small), 1)
    before = distiller.images.clone()
    state = torch.get_rng_state()
    loss = distiller.step()
    assert loss > 0 and bool(torch.isfinite(distiller.images).all())
    assert bool((distiller.images != before).flatten(1).any(1).all()), "every image has moved"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18"])
@pytest.mark.parametrize("backbone", ["dc", "dsa"])
def test_batch_norm_in_other_networks(name, backbone, make_dataset, make_config):
    size, network = NETWORKS[name]
    network = {"name": name, "depth": None, "norm": "batch", **network}
    found = distill(make_dataset(size=size), make_config(backbone, network=network, iterations=2), 1).images
    assert bool(torch.isfinite(found).all())


def test_the_default_network_is_the_convnet(dataset, make_config):
    named = make_config("dm", network={"name": "convnet", "norm": "instance"})
    assert torch.equal(distill(dataset, named, 1).images, distill(dataset, make_config("dm"), 1).images)
