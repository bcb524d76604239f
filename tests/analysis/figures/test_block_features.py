"""Features of blocks in the plane."""

import numpy as np
import pytest
import torch

from ddcal.analysis.figures.block_features import (
    choose_images,
    embed,
    embed_network,
    embed_networks,
    embedding_frame,
    plot_block_features,
)
from ddcal.calibration import save_figure
from ddcal.config import NetworkConfig
from ddcal.networks import build_network
from ddcal.seeding import generator


def clusters(count=60, width=80):
    rng = np.random.default_rng(0)
    return (10 * rng.normal(size=(3, width))[np.arange(count) % 3] + rng.normal(size=(count, width))).astype("float32")


def test_the_same_bits_twice():
    features = clusters()
    first, perplexity = embed(features)
    assert first.dtype == np.float32 and first.shape == (60, 2) and perplexity == pytest.approx(59 / 3)
    assert embed(features)[0].tobytes() == first.tobytes()


def test_clusters_stay_together():
    points, _ = embed(clusters())
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) % 3 == np.arange(60) % 3).all()


def test_few_and_equal_points():
    points, perplexity = embed(clusters(5, 2))
    assert np.isfinite(points).all() and perplexity == pytest.approx(4 / 3)
    assert (embed(np.ones((6, 4), dtype=np.float32))[0] == 0).all()
    for bad, message in ((np.ones((4, 3)), "N at least 5"), (np.full((6, 3), np.nan), "NaN")):
        with pytest.raises(ValueError, match=message):
            embed(bad)


def test_networks_side_by_side_have_the_bits_of_one_after_another():
    images, labels = torch.randn(60, 1, 8, 8, generator=generator(0, "test", "images")), torch.arange(60) % 3
    networks = [
        (
            build_network(NetworkConfig(width=4), 1, 8, 3, generator(0, "test", "weights", number)),
            f"loss {number}",
            True,
        )
        for number in range(4)
    ]
    one_by_one = [embed_network(network, images, labels, name, masked=masked) for network, name, masked in networks]
    expected = [block for blocks in one_by_one for block in blocks]
    found = embed_networks(networks, images, labels)
    assert [(one.method, one.block, one.masked) for one in found] == [
        (one.method, one.block, one.masked) for one in expected
    ]
    assert [one.points.tobytes() for one in found] == [one.points.tobytes() for one in expected]


@pytest.mark.slow
def test_every_block_of_a_network(tmp_path):
    network = build_network(NetworkConfig(width=4), 1, 8, 3, generator(0, "test", "weights"))
    network.train()
    images, labels = torch.randn(30, 1, 8, 8, generator=generator(0, "test", "images")), torch.arange(30) % 3
    found = embed_network(network, images, labels, "mixup", masked=True, batch_size=7)
    assert [one.block for one in found] == [1, 2] and network.training
    expected, _ = embed(network.block_features(images)[0].flatten(1).detach().numpy())
    assert found[0].points == pytest.approx(expected, abs=0.5)
    assert len(embedding_frame(found)) == 60
    plain = embed_network(network, images, labels, "cross_entropy")
    figure = plot_block_features([*plain, *found], title="digits", reduced=True)
    assert len(figure.axes) == 8 and figure.get_figwidth() <= 13.5  # two methods, two sides, two blocks
    paths = [save_figure(plot_block_features(found), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_as_many_images_of_every_class():
    labels = torch.arange(400) % 20
    chosen = labels[choose_images(labels, most=35)]
    assert torch.bincount(chosen).tolist() == [3] * 10
