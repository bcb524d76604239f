"""How a batch is mixed, and what its shares are distributed like."""

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from ddcal.seeding import generator
from ddcal.training.mixup import Mixing, draw_mixing


def stream(index=0):
    return generator(0, "test", "mixup", index)


def shares(alpha, count=400):
    """One after another of one stream, as for the batches of an epoch."""
    one = stream()
    return [draw_mixing(2, alpha, one).share for _ in range(count)]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0, 50.0])
def test_shares_are_beta(alpha):
    found = shares(alpha)
    assert all(0.0 <= share <= 1.0 for share in found)
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_alpha_one_is_the_uniform_draw_itself_and_a_larger_one_mixes_more():
    first = float(torch.rand((), dtype=torch.float64, generator=stream()))
    assert shares(1.0, 1) == pytest.approx([first], rel=1e-12)
    for small, large in zip(shares(0.5, 20), shares(5.0, 20), strict=True):
        assert abs(large - 0.5) < abs(small - 0.5) and (large > 0.5) == (small > 0.5)


def test_a_draw_is_of_its_stream_alone():
    first, again, other = draw_mixing(9, 1.0, stream()), draw_mixing(9, 1.0, stream()), draw_mixing(9, 1.0, stream(1))
    assert first.share == again.share != other.share
    assert torch.equal(first.partners, again.partners) and not torch.equal(first.partners, other.partners)
    assert first.partners.sort().values.tolist() == list(range(9))
    assert torch.equal(draw_mixing(9, 7.0, stream()).partners, first.partners), "whatever alpha is"


def test_images_and_losses_by_hand():
    mixing = Mixing(0.25, torch.tensor([1, 2, 0]))
    images = torch.tensor([1.0, 10.0, 100.0])[:, None, None, None]
    assert mixing.images(images).flatten().tolist() == [7.75, 77.5, 25.75]
    logits, labels = torch.randn(3, 4, generator=stream(), dtype=torch.float64), torch.tensor([0, 1, 3])
    loss = mixing.loss(F.cross_entropy, logits, labels)
    log_p = logits.log_softmax(1)
    rows = [(0, 0, 1), (1, 1, 3), (2, 3, 0)]  # image, its own label, its partner's
    expected = -sum(0.25 * log_p[i, own] + 0.75 * log_p[i, partner] for i, own, partner in rows) / 3
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)


def test_the_loss_is_that_of_mixed_one_hot_targets():
    mixing = draw_mixing(6, 1.0, stream(3))
    logits, labels = torch.randn(6, 4, generator=stream(), dtype=torch.float64), torch.tensor([0, 1, 3, 2, 2, 0])
    targets = F.one_hot(labels, 4).double()
    mixed = mixing.images(targets[:, :, None, None])[:, :, 0, 0]
    assert float(mixing.loss(F.cross_entropy, logits, labels)) == pytest.approx(float(F.cross_entropy(logits, mixed)))


def test_a_share_of_one_mixes_nothing():
    mixing = Mixing(1.0, torch.tensor([2, 0, 1]))
    images, logits = torch.randn(3, 1, 4, 4, generator=stream()), torch.randn(3, 4, generator=stream())
    labels = torch.tensor([0, 1, 3])
    assert torch.equal(mixing.images(images), images)
    assert torch.equal(mixing.loss(F.cross_entropy, logits, labels), F.cross_entropy(logits, labels))


def test_gradients_reach_both_partners():
    mixing = Mixing(0.3, torch.tensor([1, 2, 0]))
    logits = torch.randn(3, 4, generator=stream(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mixing.loss(F.cross_entropy, x, torch.tensor([0, 1, 3])), (logits,))
