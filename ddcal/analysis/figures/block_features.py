"""What each block of a network makes of images: t-SNE of the features of every block (Figure 4).

The supplement, B.3: a DDNN separates the classes already in its second layer, which means that it has thrown away what
other tasks would need; with MDT the features stay mixed until the last one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ddcal.analysis.figures.per_class import first_per_class, images_per_class
from ddcal.analysis.labels import COLOURS, MAX_WIDTH, headline, method_label
from ddcal.networks.base import Network
from ddcal.pictures import literal
from ddcal.seeding import derive_seed

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats32 = npt.NDArray[np.float32]

MAX_IMAGES, MAX_CLASSES = 1000, 10
"""Images and classes of a figure: t-SNE takes seconds for each network and block, and eyes no more colours."""

COMPONENTS, PERPLEXITY = 50, 30.0
"""Principal components that t-SNE starts from, and its perplexity where there are enough images."""

FEWEST_IMAGES = 5


@dataclass(frozen=True, eq=False)
class BlockEmbedding:
    """Features of one block in the plane.

    Attributes:
        method: How the network was trained: ``cross_entropy``, ``mixup``, ``label_smoothing``, ``focal`` …
        masked: On a set distilled with MDT.
        block: From 1.
        points: float32 (N, 2).
        labels: int64 (N,).
        perplexity: What t-SNE took.
    """

    method: str
    masked: bool
    block: int
    points: Floats32
    labels: npt.NDArray[np.int64]
    perplexity: float


def choose_images(labels: Tensor, most: int = MAX_IMAGES, classes: int = MAX_CLASSES) -> Tensor:
    """Return the places of images to embed: the first of every class, as many of each, of the first classes.

    Args:
        labels: Integers (N,) from 0.
        most: Images in all.
        classes: Classes.

    Returns:
        int64 places; class after class.

    Raises:
        ValueError: as `first_per_class`.
    """
    shown = min(classes, int(labels.max()) + 1)
    count = min(max(1, most // shown), images_per_class(labels[labels < shown]))
    return first_per_class(labels, count, shown)


def embed_network(
    network: Network,
    images: Tensor,
    labels: Tensor,
    method: str,
    *,
    masked: bool = False,
    seed: int = 0,
    batch_size: int = 256,
) -> list[BlockEmbedding]:
    """Return the embedding of every block of a network, for all the images given (see `choose_images`).

    The network is in evaluation mode meanwhile. Equal weights, images and seed give equal bits on one machine.

    Args:
        network: Of any kind.
        images: float (N, C, H, W), preprocessed and not masked.
        labels: Integers (N,).
        method: How the network was trained.
        masked: The network was trained on a set distilled with MDT.
        seed: Of t-SNE.
        batch_size: Images a forward pass.

    Raises:
        ValueError: as `embed`.
    """
    classes = labels.cpu().numpy().astype(np.int64)
    found = []
    for block, features in enumerate(_features(network, images, batch_size), start=1):
        points, perplexity = embed(features, seed)
        found.append(BlockEmbedding(method, masked, block, points, classes, perplexity))
    return found


def embed_networks(
    networks: Sequence[tuple[Network, str, bool]], images: Tensor, labels: Tensor, *, seed: int = 0
) -> list[BlockEmbedding]:
    """Return the embeddings of several networks, one after another, computed on all cores: a network's on one.

    Args:
        networks: Each with its training method, and whether its set was distilled with MDT; see `embed_network`.
        images: As there.
        labels: As there.
        seed: As there.

    Raises:
        ValueError: as `embed`.
    """
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with threadpool_limits(1), ThreadPoolExecutor(cores) as pool:  # a limit within a thread ends with the last one's

        def embedded(one: tuple[Network, str, bool]) -> list[BlockEmbedding]:
            network, method, masked = one
            return embed_network(network, images, labels, method, masked=masked, seed=seed)

        return [block for blocks in pool.map(embedded, networks) for block in blocks]


def embed(features: Floats32, seed: int = 0, perplexity: float = PERPLEXITY) -> tuple[Floats32, float]:
    """Return features in the plane, by t-SNE (van der Maaten, Hinton 2008) after PCA to at most 50 components.

    Computed in float32 and on one thread. Features that are all the same stay in one place.

    Args:
        features: (N, F).
        seed: Of the randomised PCA of many features; t-SNE itself starts from the principal components.
        perplexity: With fewer than 3 · perplexity + 1 points, (N - 1) / 3 is taken instead.

    Returns:
        float32 (N, 2), and the perplexity.

    Raises:
        ValueError: if there are fewer than `FEWEST_IMAGES` rows, or values are NaN or infinite.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    values = np.ascontiguousarray(features, dtype=np.float32)
    if values.ndim != 2 or len(values) < FEWEST_IMAGES:
        raise ValueError(f"features are {values.shape}; expected (N, F), N at least {FEWEST_IMAGES}")
    if not np.isfinite(values).all():
        raise ValueError("features have values that are NaN or infinite")
    taken = min(perplexity, (len(values) - 1) / 3)
    if not (values != values[0]).any():
        return np.zeros((len(values), 2), dtype=np.float32), taken
    state = derive_seed(seed, "analysis", "t-sne") % 2**32
    with threadpool_limits(1):
        components = min(COMPONENTS, *values.shape)
        if components < values.shape[1]:
            values = PCA(components, random_state=state).fit_transform(values)
        start = "pca" if values.shape[1] > 1 else "random"
        points = TSNE(perplexity=taken, init=start, random_state=state, n_jobs=1).fit_transform(values)
    return points.astype(np.float32), taken


def embedding_frame(embeddings: Sequence[BlockEmbedding]) -> pandas.DataFrame:
    """Return one row a point: method, masked, block, image (its place), label, x, y."""
    import pandas

    names = ["method", "masked", "block", "image", "label", "x", "y"]
    frames = [
        pandas.DataFrame(
            {
                "method": one.method,
                "masked": one.masked,
                "block": one.block,
                "image": np.arange(len(one.labels)),
                "label": one.labels,
                "x": one.points[:, 0],
                "y": one.points[:, 1],
            }
        )
        for one in embeddings
    ]
    return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame(columns=names)


def plot_block_features(
    embeddings: Sequence[BlockEmbedding],
    *,
    class_names: Sequence[str] | None = None,
    title: str = "",
    reduced: bool = False,
) -> Figure:
    """Return Figure 4: a row for each training method, a column for each block, left without and right with MDT.

    A panel whose network is not among the embeddings stays empty; a side without any is left out.

    Args:
        embeddings: At least one.
        class_names: Written in the legend; None: the labels' numbers.
        title: Written above.
        reduced: Write that the scale is not the paper's.

    Raises:
        ValueError: if there are none, or they have more than ten classes.
    """
    from matplotlib.figure import Figure

    if not embeddings:
        raise ValueError("embeddings is empty; give at least one")
    classes = sorted({int(label) for one in embeddings for label in np.unique(one.labels)})
    if len(classes) > len(COLOURS):
        raise ValueError(f"embeddings have {len(classes)} classes; {len(COLOURS)} colours can be told apart")
    methods = list(dict.fromkeys(one.method for one in embeddings))
    sides = sorted({one.masked for one in embeddings})
    blocks = max(one.block for one in embeddings)
    columns = [(masked, block) for masked in sides for block in range(1, blocks + 1)]
    panel = min(2.1, (MAX_WIDTH - 0.6) / len(columns))
    figure = Figure(figsize=(max(5.5, 0.6 + panel * len(columns)), 1.4 + panel * len(methods)), layout="constrained")
    # A narrow empty column between the sides.
    ratios = [1.0] * blocks + ([0.12] + [1.0] * blocks if len(sides) > 1 else [])
    grid = figure.add_gridspec(len(methods), len(ratios), width_ratios=ratios)
    by_place = {(one.method, one.masked, one.block): one for one in embeddings}
    for row, method in enumerate(methods):
        for masked, block in columns:
            column = block - 1 + (blocks + 1 if masked and len(sides) > 1 else 0)
            axes = figure.add_subplot(grid[row, column])
            _draw_panel(axes, by_place.get((method, masked, block)), classes)
            if row == 0:
                side = "with MDT" if masked else "without MDT"
                axes.set_title(f"{side}\nblock {block}" if len(sides) > 1 or masked else f"block {block}", fontsize=10)
            if column == 0:
                axes.set_ylabel(method_label(method), fontsize=10)
    names = [str(one) if class_names is None else literal(class_names[one]) for one in classes]
    _legend(figure, names)
    headline(figure, title, reduced)
    return figure


def _draw_panel(axes: Axes, one: BlockEmbedding | None, classes: list[int]) -> None:
    axes.set_xticks(())
    axes.set_yticks(())
    if one is None:
        axes.text(0.5, 0.5, "not run", ha="center", va="center", fontsize=9, color="#666666", transform=axes.transAxes)
        return
    colours = [COLOURS[classes.index(int(label))] for label in one.labels]
    size = 6.0 if len(one.labels) > 300 else 12.0
    axes.scatter(one.points[:, 0], one.points[:, 1], c=colours, s=size, linewidths=0)
    axes.margins(0.05)


def _legend(figure: Figure, names: list[str]) -> None:
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], linestyle="", marker="o", markersize=6, color=colour, label=name)
        for name, colour in zip(names, COLOURS, strict=False)
    ]
    columns = len(dots) if figure.get_figwidth() > 9 else 5
    figure.legend(handles=dots, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handletextpad=0.1)


def _features(network: Network, images: Tensor, batch_size: int) -> list[Floats32]:
    """Return the flattened float32 features of every block, (N, F_block)."""
    device = next(network.parameters()).device
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            batches = [
                [maps.flatten(1).float().cpu() for maps in network.block_features(batch.to(device))]
                for batch in images.split(batch_size)
            ]
    finally:
        for module, flag in flags:
            module.training = flag
    return [torch.cat(block).numpy() for block in zip(*batches, strict=True)]
