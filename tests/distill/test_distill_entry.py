import math

import pytest
import torch

from ddcal.config import DistillConfig
from ddcal.distill import distill, make_distiller
from ddcal.errors import DivergedError


@pytest.mark.parametrize(
    ("backbone", "iterations"), [("real", 1), ("dc", 3), ("dsa", 3), ("dm", 3), ("mtt", 3), ("rtp", 3)]
)
def test_progress_is_told_after_every_iteration(backbone, iterations, dataset, make_config):
    told = []
    distill(dataset, make_config(backbone), 0, on_progress=lambda *values: told.append(values))
    assert [(done, total) for done, total, _ in told] == [(k + 1, iterations) for k in range(iterations)]
    assert all(math.isfinite(loss) for _, _, loss in told)


def test_backbone_full_distills_nothing(dataset):
    with pytest.raises(ValueError, match=r"distill\.backbone is 'full'.*dm, file, dc, dsa, mtt, real, rtp"):
        distill(dataset, DistillConfig(backbone="full"), 0)


@pytest.mark.parametrize(("backbone", "ipc", "loops"), [("dc", 1, (1, 1)), ("dsa", 5, (5, 23)), ("dsa", 7, (7, 34))])
def test_what_is_left_out_takes_the_published_value(backbone, ipc, loops, dataset):
    """Linear between the rows (1, 1) at ipc 1 and (10, 50) at ipc 10: 1 + 4/9·49 = 22.8, 1 + 6/9·49 = 33.7."""
    distiller = make_distiller(dataset, DistillConfig(backbone=backbone, ipc=ipc), 0)
    assert (distiller.outer, distiller.inner) == loops
    assert distiller.iterations == 1000


@pytest.mark.parametrize("backbone", ["dc", "dsa"])
@pytest.mark.parametrize("norm", ["instance", "none"])
@pytest.mark.parametrize("rate", [1e25, 1e38])
def test_a_huge_image_rate_is_named(backbone, norm, rate, dataset, make_config):
    config = make_config(backbone, matching={"image_lr": rate}, network={"norm": norm})
    with pytest.raises(DivergedError, match=r"iteration \d of 3 .*lower distill\.matching\.image_lr"):
        distill(dataset, config, 0)


@pytest.mark.parametrize(
    ("backbone", "settings", "words"),
    [
        ("dm", {"dm": {"image_lr": 3e38}}, r"lower distill\.dm\.image_lr"),
        ("mtt", {"mtt": {"image_lr": 3e38}}, r"lower distill\.mtt\.image_lr"),
        ("mtt", {"mtt": {"experts": {"count": 1, "lr": 1e30}}}, r"lower distill\.mtt\.experts\.lr"),
        ("rtp", {"rtp": {"lr": 3e38}}, r"lower distill\.rtp\.inner_lr .* or distill\.rtp\.lr"),
    ],
)
def test_a_rate_that_diverges_is_named(backbone, settings, words, dataset, make_config):
    with pytest.raises(DivergedError, match=words):
        distill(dataset, make_config(backbone, network={"norm": "none"}, **settings), 0)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_images_that_are_not_finite_are_named(value, dataset, make_config):
    distiller = make_distiller(dataset, make_config("dsa"), 0)
    distiller.images[3, 0, 2, 2] = value
    with pytest.raises(DivergedError, match=r"distill\.matching\.image_lr"):
        distiller.step()


def test_the_last_update_is_looked_at_too(dataset, make_config):
    """A loss is computed before its update: without a look at the images, the last one would pass unseen."""
    config = make_config("dc", iterations=1, matching={"outer": 1, "image_lr": 3e38})
    distiller = make_distiller(dataset, config, 0)
    distiller.velocity.fill_(1e3)
    with pytest.raises(DivergedError, match=r"iteration 1 of 1"):
        distiller.step()


def test_real_images_are_not_touched(dataset, make_config):
    before = dataset.train.images.clone()
    distill(dataset, make_config("dsa", mask={"ratio": 0.3}), 0)
    assert torch.equal(dataset.train.images, before)
