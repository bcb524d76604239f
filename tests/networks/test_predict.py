import pytest
import torch
from torch import nn

from ddcal.config import NetworkConfig
from ddcal.networks import build_network, predict_logits
from ddcal.seeding import generator


@pytest.fixture
def network():
    return build_network(NetworkConfig(width=4, norm="batch"), 1, 8, 3, generator(0, "test", "net"))


@pytest.fixture
def images():
    return torch.randn((10, 1, 8, 8), generator=generator(0, "test", "images"))


def test_batches_change_nothing_but_memory(network, images):
    whole = predict_logits(network, images)
    assert whole.shape == (10, 3) and whole.dtype == torch.float32 and not whole.requires_grad
    torch.testing.assert_close(predict_logits(network, images, batch_size=3), whole)
    assert torch.equal(predict_logits(network, images), whole)


def test_evaluation_mode_is_used_and_every_flag_restored(network, images):
    network.train()
    network.blocks[0].eval()
    flags = [module.training for module in network.modules()]
    statistics = network.blocks[1][1].running_mean.clone()
    logits = predict_logits(network, images)
    assert [module.training for module in network.modules()] == flags
    assert torch.equal(network.blocks[1][1].running_mean, statistics)
    network.eval()
    assert torch.equal(network(images), logits)


def test_flags_are_restored_after_an_error(network):
    network.train()
    with pytest.raises(RuntimeError):
        predict_logits(network, torch.zeros(1, 2, 8, 8))
    assert network.training


def test_logits_can_be_used_in_a_gradient(network, images):
    temperature = torch.ones((), requires_grad=True)
    (predict_logits(network, images) / temperature).logsumexp(1).sum().backward()
    assert temperature.grad is not None


def test_no_images_no_parameters_and_half_precision(network, images):
    assert predict_logits(network, images[:0]).shape == (0, 3)
    assert torch.equal(predict_logits(nn.Flatten(), images), images.flatten(1))
    assert predict_logits(nn.Flatten(), images.half()).dtype == torch.float32


def test_batch_size_zero_is_refused(network, images):
    with pytest.raises(ValueError, match="batch_size is 0"):
        predict_logits(network, images, batch_size=0)
