import math

import pytest
import torch

from ddcal.masking import mask_images, random_mask
from ddcal.seeding import generator

SHAPE = (6, 3, 10, 10)


def draws(index=0):
    return generator(0, "test", "mask", index)


@pytest.mark.parametrize("unit", ["element", "pixel", "patch"])
@pytest.mark.parametrize(("ratio", "kept"), [(0.0, True), (1.0, False)])
def test_extreme_ratios_keep_all_or_nothing(unit, ratio, kept):
    mask = random_mask(SHAPE, ratio, draws(), unit)
    assert mask.dtype == torch.bool and mask.shape == SHAPE
    assert bool((mask == kept).all())


@pytest.mark.parametrize("unit", ["element", "pixel", "patch"])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_kept_share_is_one_minus_ratio(unit, ratio):
    mask = random_mask((400, 1, 32, 32), ratio, draws(), unit)
    independent = mask.numel() / (16 if unit == "patch" else 1)
    assert abs(mask.float().mean().item() - (1 - ratio)) < 5 * math.sqrt(ratio * (1 - ratio) / independent)


def test_an_element_is_kept_where_u_reaches_the_ratio():
    u = torch.rand(SHAPE, generator=draws())
    assert torch.equal(random_mask(SHAPE, 0.3, draws()), u >= 0.3)


def test_elements_differ_between_channels_and_pixels_do_not():
    element, pixel = (random_mask(SHAPE, 0.5, draws(), unit) for unit in ("element", "pixel"))
    assert not torch.equal(element[:, 0], element[:, 1])
    assert torch.equal(pixel[:, 0], pixel[:, 1]) and torch.equal(pixel[:, 0], pixel[:, 2])


def test_patches_are_four_by_four_and_smaller_at_the_edge():
    mask = random_mask((50, 2, 10, 7), 0.5, draws(), "patch")
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        for columns in (slice(0, 4), slice(4, 7)):
            patch = mask[:, :, rows, columns].flatten(1).float().mean(1)
            assert bool(((patch == 0) | (patch == 1)).all())
            assert 0 < patch.mean() < 1
    assert not torch.equal(mask[:, :, 0, 0], mask[:, :, 4, 0])


def test_a_larger_ratio_masks_a_superset():
    low, high = (random_mask(SHAPE, ratio, draws()) for ratio in (0.2, 0.6))
    assert bool((low | ~high).all()) and low.sum() > high.sum()


def test_the_same_generator_gives_the_same_bits():
    assert torch.equal(random_mask(SHAPE, 0.4, draws(1)), random_mask(SHAPE, 0.4, draws(1)))
    assert not torch.equal(random_mask(SHAPE, 0.4, draws(1)), random_mask(SHAPE, 0.4, draws(2)))


def test_ratio_zero_returns_the_images_and_draws_nothing():
    images, source = torch.randn(SHAPE, generator=draws(3)), draws()
    before = source.get_state()
    assert mask_images(images, 0.0, source) is images
    assert torch.equal(source.get_state(), before)


def test_masked_images_are_zero_where_masked_and_equal_elsewhere():
    images = torch.randn(SHAPE, generator=draws(3))
    images[0, 0, 0, 0] = math.nan
    keep = random_mask(SHAPE, 1 - 1e-7, draws())
    assert not keep[0, 0, 0, 0]
    assert mask_images(images, 1 - 1e-7, draws())[0, 0, 0, 0] == 0  # a filled zero, not NaN times zero
    images, keep = images.nan_to_num(), random_mask(SHAPE, 0.5, draws())
    assert torch.equal(mask_images(images, 0.5, draws()), torch.where(keep, images, torch.zeros(())))


def test_the_gradient_is_the_mask():
    images = torch.randn(SHAPE, generator=draws(3), requires_grad=True)
    (gradient,) = torch.autograd.grad(mask_images(images, 0.5, draws()).sum(), images)
    assert torch.equal(gradient, random_mask(SHAPE, 0.5, draws()).float())


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan, math.inf])
def test_a_ratio_outside_zero_to_one_is_refused(ratio):
    for function in (
        lambda: random_mask(SHAPE, ratio, draws()),
        lambda: mask_images(torch.ones(SHAPE), ratio, draws()),
    ):
        with pytest.raises(ValueError, match=r"ratio is .*\[0, 1\]"):
            function()


def test_unknown_units_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"'row'.*element, pixel, patch"):
        mask_images(torch.ones(SHAPE), 0.0, draws(), "row")
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*\(N, C, H, W\)"):
        random_mask((3, 8, 8), 0.5, draws())
