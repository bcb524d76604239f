import pytest
import torch

from ddcal.config.trial import MDTMaskConfig
from ddcal.distill import distill, make_distiller
from ddcal.distill.mdt import SyntheticMask
from ddcal.seeding import generator

SHAPE = (6, 1, 8, 8)
SEED = 3


def masks_of(resample, where="both", iterations=2, passes=2, unit="element"):
    """Keep-masks by (iteration, pass), read off an image of ones."""
    config = MDTMaskConfig(ratio=0.5, resample=resample, where=where, unit=unit)
    mask, kept = SyntheticMask(config, SEED, torch.device("cpu")), {}
    for iteration in range(iterations):
        mask.begin(iteration, SHAPE)
        for index in range(passes):
            kept[iteration, index] = mask.apply(torch.ones(SHAPE), slice(0, 6), "matching") > 0
    return kept


@pytest.mark.parametrize(
    ("resample", "same_within", "same_across"),
    [("fixed", True, True), ("iteration", True, False), ("step", False, False)],
)
@pytest.mark.parametrize("unit", ["element", "pixel", "patch"])
def test_resample_says_how_often_the_mask_changes(resample, same_within, same_across, unit):
    kept = masks_of(resample, unit=unit)
    assert torch.equal(kept[0, 0], kept[0, 1]) == same_within
    assert torch.equal(kept[0, 0], kept[1, 0]) == same_across


@pytest.mark.parametrize(
    ("where", "masked"), [("both", ["matching", "inner"]), ("matching", ["matching"]), ("inner", ["inner"])]
)
def test_where_says_which_passes_are_masked(where, masked):
    mask = SyntheticMask(MDTMaskConfig(ratio=0.5, where=where), SEED, torch.device("cpu"))
    mask.begin(0, SHAPE)
    images = torch.ones(SHAPE)
    found = [kind for kind in ("matching", "inner") if mask.apply(images, slice(0, 6), kind) is not images]
    assert found == masked


@pytest.mark.parametrize("resample", ["fixed", "iteration"])
def test_a_kept_mask_belongs_to_the_images_and_not_to_the_batch(resample):
    mask = SyntheticMask(MDTMaskConfig(ratio=0.5, resample=resample), SEED, torch.device("cpu"))
    mask.begin(1, SHAPE)
    whole = mask.apply(torch.ones(SHAPE), slice(0, 6), "matching")
    chosen = torch.tensor([4, 0, 3])
    assert torch.equal(mask.apply(torch.ones(3, 1, 8, 8), chosen, "inner"), whole[chosen])


@pytest.mark.parametrize("backbone", ["dc", "dsa"])
@pytest.mark.parametrize("resample", ["fixed", "iteration", "step"])
def test_masked_elements_get_exactly_no_gradient(backbone, resample, dataset, make_config):
    """Also under DSA's warps, which mix neighbours: the mask comes before the augmentation."""
    config = make_config(backbone, mask={"ratio": 0.5, "resample": resample}, matching={"outer": 1})
    distiller = make_distiller(dataset, config, SEED)
    for iteration in range(4):
        distiller.velocity.zero_()
        distiller.step()
        stream = generator(SEED, "distill", "mask", 0 if resample == "fixed" else iteration)
        shapes = [(2, 1, 8, 8)] * 3 if resample == "step" else [SHAPE]
        kept = torch.cat([torch.rand(shape, generator=stream) >= 0.5 for shape in shapes])
        assert 0.2 < kept.float().mean() < 0.8
        assert bool((distiller.velocity[~kept] == 0).all())
        assert (distiller.velocity[kept] != 0).float().mean() > 0.4  # cutout and crop take their share


@pytest.mark.parametrize("backbone", ["dc", "dsa"])
def test_ratio_zero_is_no_mask_to_the_bit(backbone, dataset, make_config):
    plain = distill(dataset, make_config(backbone), SEED).images
    for settings in ({"unit": "patch"}, {"where": "inner"}, {"resample": "fixed"}):
        config = make_config(backbone, mask={"ratio": 0.0, **settings})
        assert torch.equal(distill(dataset, config, SEED).images, plain)


def test_a_mask_changes_the_set_but_not_where_it_starts(dataset, make_config):
    plain, masked = (make_distiller(dataset, make_config("dsa", mask={"ratio": r}), SEED) for r in (0.0, 0.1))
    assert torch.equal(plain.images, masked.images)
    plain.step()
    masked.step()
    assert not torch.equal(plain.images, masked.images)


def test_ratio_one_matches_nothing_and_leaves_the_images_alone(dataset, make_config):
    config = make_config("dsa", mask={"ratio": 1.0})
    start = make_distiller(dataset, config, SEED).images
    assert torch.equal(distill(dataset, config, SEED).images, start)
