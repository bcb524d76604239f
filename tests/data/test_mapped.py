"""Mapped images are a tensor like any other: every operation gives the bits of a preprocessed copy."""

import pytest
import torch

from ddcal.config import DataConfig
from ddcal.data import load_dataset
from ddcal.data.mapped import MappedImages
from ddcal.data.preprocessing import Normalisation, fit_normalisation, unit_images
from ddcal.networks import predict_logits

ROWS = torch.tensor([7, 3, 3, 0, 9, 5, 1])


@pytest.fixture
def pair():
    """(mapped, copy) of the same images."""
    stored = torch.randint(0, 256, (10, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocessing = Normalisation(torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25]))
    copy = preprocessing.transform(unit_images(stored.numpy(), ROWS, None))
    return MappedImages(stored, ROWS, preprocessing), copy


@pytest.mark.parametrize(
    "take",
    [
        lambda x: x[2],
        lambda x: x[-1],
        lambda x: x[torch.tensor([4, 0, 4])],
        lambda x: x[torch.tensor([[4, 0], [1, 1]])],
        lambda x: x[[1, 2]],
        lambda x: x[torch.arange(7) % 2 == 0],
        lambda x: x[2:5].clone(),
        lambda x: x[::3][1:].clone(),
        lambda x: x[:0].clone(),
        lambda x: x[1:][torch.tensor([0, 5])],
        lambda x: x.index_select(0, torch.tensor([6, 2])),
        lambda x: torch.stack([part.sum() for part in x.split(3)]),
        lambda x: torch.cat([part * 1 for part in x.split([2, 5])]),
        lambda x: x[:, 1],
        lambda x: x[:, :, 2:4],
        lambda x: x[torch.tensor([0, 1]), torch.tensor([2, 0])],
        lambda x: x.select(1, 0),
        lambda x: x.detach()[0],
        lambda x: x.to("cpu")[3],
        lambda x: x.double(),
        lambda x: x.flatten(1).mean(0),
        lambda x: (x - 1).abs() > 0.5,
        lambda x: torch.nn.functional.avg_pool2d(x, 2),
        lambda x: torch.equal(x, x.clone()),
    ],
)
def test_every_operation_gives_the_bits_of_a_copy(pair, take):
    mapped, copy = pair
    found, expected = take(mapped), take(copy)
    assert not isinstance(found, MappedImages)
    assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


def test_slices_splits_and_moves_hold_no_values(pair):
    mapped, _ = pair
    for part in (mapped[2:], mapped[:0], *mapped.split(3), mapped.detach()):
        assert isinstance(part, MappedImages) and part.stored.data_ptr() == mapped.stored.data_ptr()
    moved = mapped.to("meta")
    assert isinstance(moved, MappedImages) and moved.device.type == moved.stored.device.type == "meta"
    assert moved.stored.dtype == torch.uint8 and moved.shape == mapped.shape


def test_it_looks_like_its_copy_and_cannot_be_written(pair):
    mapped, copy = pair
    for name in ("shape", "dtype", "device", "requires_grad"):
        assert getattr(mapped, name) == getattr(copy, name)
    assert len(mapped) == 7 and mapped.numel() == copy.numel() and "7, 3, 6, 6" in repr(mapped)
    for write in (lambda x: x.mul_(2), lambda x: x.__setitem__(0, 0.0), lambda x: x.clamp_(0, 1)):
        with pytest.raises(RuntimeError, match="read-only"):
            write(mapped)


def test_networks_predict_and_learn_from_it(pair):
    mapped, copy = pair
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 4))
    assert torch.equal(predict_logits(network, mapped, 3), predict_logits(network, copy, 3))
    gradients = [torch.autograd.grad(network(x).square().sum(), network[1].weight)[0] for x in (mapped, copy)]
    assert torch.equal(*gradients)


def test_a_mapped_data_set_has_the_bits_of_one_in_memory(tiny_imagenet):
    dataset = load_dataset(DataConfig(name="tiny-imagenet", root=str(tiny_imagenet)))
    train = dataset.train.images
    assert isinstance(train, MappedImages)
    fitted = fit_normalisation(unit_images(train.stored, train.rows, None))
    assert torch.equal(fitted.mean, dataset.preprocessing.mean) and torch.equal(fitted.std, dataset.preprocessing.std)
    assert torch.equal(train, fitted.transform(unit_images(train.stored, train.rows, None)))
    again = load_dataset(DataConfig(name="tiny-imagenet", root=str(tiny_imagenet)))  # mean and deviation were kept
    assert torch.equal(again.test.images, dataset.test.images)
