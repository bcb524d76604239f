"""Masked temperature scaling on a small network: exactness at ratio 0, balance, draws, determinism."""

from __future__ import annotations

import pytest
import torch

from ddcal.calibration import accuracy, fit_temperature, masked_temperature_scaling
from ddcal.calibration.masked import first_per_class, masked_logits
from ddcal.masking import mask_images
from ddcal.networks import predict_logits
from ddcal.seeding import generator

BOUNDS = (0.05, 20.0)
LABELS = torch.arange(3).repeat_interleave(10)
PATTERNS = torch.randn(3, 48, generator=generator(1, "test", "patterns"))


@pytest.fixture
def network() -> torch.nn.Module:
    """A linear network with dropout, in train mode, that knows the classes a little."""
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(48, 3))
    with torch.no_grad():
        layers[2].weight.copy_(0.4 * PATTERNS)
        layers[2].bias.copy_(torch.tensor([0.1, 0.0, -0.2]))
    return layers.train()


@pytest.fixture
def images() -> torch.Tensor:
    noise = torch.randn(30, 48, generator=generator(1, "test", "images"))
    return (noise + 0.3 * PATTERNS[LABELS]).reshape(30, 3, 4, 4)


@pytest.mark.parametrize("draws", [1, 4])
@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0] * 20 + [1] * 7 + [2] * 3)], ids=["equal", "unequal"])
@pytest.mark.parametrize("solver", ["bounded", "paper_lbfgs"])
def test_ratio_zero_is_temperature_scaling_to_the_bit(
    network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, draws: int, solver: str
) -> None:
    plain = fit_temperature(predict_logits(network, images), labels, BOUNDS, solver)
    masked = masked_temperature_scaling(network, images, labels, 0.0, BOUNDS, draws, seed=5, solver=solver)
    assert (masked.temperature, masked.nll, masked.at_bound) == (plain.temperature, plain.nll, plain.at_bound)
    assert masked.draws == (plain.temperature,)
    assert masked.masked_accuracy == accuracy(predict_logits(network, images), labels)


def test_draws_are_pooled(network: torch.nn.Module, images: torch.Tensor) -> None:
    fit = masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, draws=3, seed=5)
    logits = [
        predict_logits(network, mask_images(images, 0.5, generator(5, "calibrate", "mask", draw))) for draw in range(3)
    ]
    pooled = fit_temperature(torch.cat(logits), LABELS.repeat(3), BOUNDS)
    assert fit.temperature == pooled.temperature
    assert fit.draws == tuple(fit_temperature(one, LABELS, BOUNDS).temperature for one in logits)
    assert len(set(fit.draws)) == 3
    assert fit.masked_accuracy == accuracy(torch.cat(logits), LABELS.repeat(3))


def test_more_draws_extend_fewer_and_seeds_differ(network: torch.nn.Module, images: torch.Tensor) -> None:
    one = masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, seed=5)
    two = masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, draws=2, seed=5)
    assert one.draws == (one.temperature,) == two.draws[:1]
    assert one == masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, seed=5)
    assert one.temperature != masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, seed=6).temperature
    assert (
        one.temperature
        != masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, seed=5, unit="pixel").draws[0]
    )


def test_only_the_first_images_of_larger_classes_count(network: torch.nn.Module, images: torch.Tensor) -> None:
    labels = torch.tensor([2, 0, 0, 1, 0, 1, 2, 0, 1, 1])
    chosen = first_per_class(labels)
    assert chosen.tolist() == [0, 1, 2, 3, 5, 6]
    unequal = masked_temperature_scaling(network, images[:10], labels, 0.5, BOUNDS)
    assert unequal == masked_temperature_scaling(network, images[chosen], labels[chosen], 0.5, BOUNDS)
    assert first_per_class(LABELS).tolist() == list(range(30))


def test_everything_masked_leaves_no_information(network: torch.nn.Module, images: torch.Tensor) -> None:
    fit = masked_temperature_scaling(network, images, LABELS, 1.0, BOUNDS)
    assert (fit.temperature, fit.at_bound) == (20.0, True)
    assert fit.masked_accuracy == pytest.approx(1 / 3)


def test_network_and_global_state_stay(network: torch.nn.Module, images: torch.Tensor) -> None:
    random, before = torch.get_rng_state(), images.clone()
    masked_temperature_scaling(network, images, LABELS, 0.5, draws=2)
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(images, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": -0.1}, "mask_ratio is -0.1"),
        ({"mask_ratio": 1.1}, "mask_ratio is 1.1"),
        ({"mask_ratio": float("nan")}, "mask_ratio is nan"),
        ({"draws": 0}, "draws is 0"),
        ({"draws": 1.5}, "draws is 1.5"),
        ({"bounds": (3.0, 2.0)}, "bounds is"),
        ({"solver": "newton"}, "solver is 'newton'"),
        ({"unit": "row"}, "'row'"),
        ({"labels": LABELS[:5]}, r"labels has shape \(5,\)"),
        ({"labels": LABELS[:0], "images": torch.zeros(0, 3, 4, 4)}, r"labels has shape \(0,\)"),
    ],
)
def test_refused(network: torch.nn.Module, images: torch.Tensor, options: dict, message: str) -> None:
    arguments = {"images": images, "labels": LABELS, "mask_ratio": 0.5, **options}
    with pytest.raises(ValueError, match=message):
        masked_temperature_scaling(network, **arguments)


@pytest.mark.parametrize("unit", ["element", "pixel", "patch"])
def test_masks_do_not_depend_on_where_batches_end(unit, monkeypatch) -> None:
    """Images are masked batch by batch from one stream: the numbers are those of all images at once."""
    images = torch.randn(11, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels, seen = torch.zeros(11, dtype=torch.int64), []

    class Seeing(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            seen.append(batch)
            return batch.flatten(1)[:, :2]

    monkeypatch.setattr("ddcal.calibration.masked.BATCH", 4)
    masked_logits(Seeing(), images, labels, 0.4, 1, 7, unit)
    assert [len(batch) for batch in seen] == [4, 4, 3]
    assert torch.equal(torch.cat(seen), mask_images(images, 0.4, generator(7, "calibrate", "mask", 0), unit=unit))


# Soft labels

SOFT = 0.7 * torch.nn.functional.one_hot(LABELS, 3).float() + 0.1


def test_a_masked_image_keeps_its_soft_label(network: torch.nn.Module, images: torch.Tensor) -> None:
    fit = masked_temperature_scaling(network, images, SOFT, 0.5, BOUNDS, draws=2, seed=5)
    logits = torch.cat(
        [predict_logits(network, mask_images(images, 0.5, generator(5, "calibrate", "mask", d))) for d in range(2)]
    )
    pooled = fit_temperature(logits, torch.cat([SOFT, SOFT]), BOUNDS)
    assert (fit.temperature, fit.nll) == (pooled.temperature, pooled.nll)
    assert fit.masked_accuracy == accuracy(logits, LABELS.repeat(2)), "of the most probable class"
    assert fit.temperature != masked_temperature_scaling(network, images, LABELS, 0.5, BOUNDS, 2, 5).temperature


def test_all_images_count_whatever_their_most_probable_class(network: torch.nn.Module, images: torch.Tensor) -> None:
    logits, used = masked_logits(network, images, SOFT[[0] * 25 + [10] * 5], 0.5)
    assert logits.shape == (1, 30, 3) and used.shape == (30, 3)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0] * 20 + [1] * 7 + [2] * 3)], ids=["equal", "unequal"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_one_hot_labels_are_classes_to_the_bit(
    network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, ratio: float
) -> None:
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    found = [masked_temperature_scaling(network, images, one, ratio, BOUNDS, 3, 5) for one in (labels, one_hot)]
    assert found[0] == found[1]
