"""How sure networks are of what they see: the distribution of the maximum logit, FDNN against DDNN (Figure 3).

The supplement, B.4: the FDNN, which calibrates better, has evenly distributed maximum logits, the DDNN concentrated
ones. Masked images are those of MTS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ddcal.analysis.labels import COLOURS, headline
from ddcal.pictures import literal

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

ArrayLike = torch.Tensor | npt.NDArray[np.generic]

MOST_BINS = 60


@dataclass(frozen=True, eq=False)
class MaxLogits:
    """The distribution of the largest logit of each image.

    Attributes:
        network: Which network, for example ``FDNN``, ``DDNN``, ``DDNN + MDT``.
        images: Which images, for example ``plain``, ``masked 0.5``.
        edges: float64 (bins + 1,), the same for all distributions that were made together.
        density: float64 (bins,): share of the images a unit of the logit; density · width sums to 1.
        count: Images.
        mean: Of the maximum logits.
        std: Standard deviation of the maximum logits over the images (divided by N).
    """

    network: str
    images: str
    edges: npt.NDArray[np.float64]
    density: npt.NDArray[np.float64]
    count: int
    mean: float
    std: float


def max_logit_distributions(logits: Mapping[tuple[str, str], ArrayLike], bins: int | None = None) -> list[MaxLogits]:
    """Return the distributions of the maximum logit on common bins, from the smallest to the largest of all.

    Args:
        logits: (network, images) → logits (N, K), tensors on any device or arrays. N may differ.
        bins: Bins over the common range; None: the root of the fewest images, at most `MOST_BINS`.

    Raises:
        ValueError: if there are no logits, some are not (N, K) with N and K of at least 1 or are NaN or infinite, or
            ``bins`` is below 1.
    """
    if bins is not None and bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    if not logits:
        raise ValueError("logits is empty; give those of at least one network")
    largest = {key: _largest(key, values) for key, values in logits.items()}
    low = min(float(values.min()) for values in largest.values())
    high = max(float(values.max()) for values in largest.values())
    if bins is None:
        bins = min(MOST_BINS, math.isqrt(min(len(values) for values in largest.values())))
    edges = np.histogram_bin_edges(np.array([low, high]), bins)
    return [
        MaxLogits(
            network=network,
            images=images,
            edges=edges,
            density=np.histogram(values, edges)[0] / (len(values) * np.diff(edges)),
            count=len(values),
            mean=float(values.mean()),
            std=float(values.std()),
        )
        for (network, images), values in largest.items()
    ]


def max_logits_frame(distributions: Sequence[MaxLogits]) -> pandas.DataFrame:
    """Return the histograms, one row a bin: network, images, low, high, density."""
    import pandas

    rows = [
        {"network": one.network, "images": one.images, "low": low, "high": high, "density": density}
        for one in distributions
        for low, high, density in zip(
            one.edges[:-1].tolist(), one.edges[1:].tolist(), one.density.tolist(), strict=True
        )
    ]
    return pandas.DataFrame(rows, columns=["network", "images", "low", "high", "density"])


def max_logits_summary(distributions: Sequence[MaxLogits]) -> pandas.DataFrame:
    """Return one row a distribution: network, images, count, mean, std."""
    import pandas

    names = ["network", "images", "count", "mean", "std"]
    return pandas.DataFrame([{name: getattr(one, name) for name in names} for one in distributions], columns=names)


def plot_max_logits(distributions: Sequence[MaxLogits], *, title: str = "", reduced: bool = False) -> Figure:
    """Return Figure 3: a panel for each kind of images, in it every network, all on the same axes.

    Args:
        distributions: Made together by `max_logit_distributions`.
        title: Written above.
        reduced: Write that the scale is not the paper's.

    Raises:
        ValueError: if there are none, or they are not on the same bins.
    """
    from matplotlib.figure import Figure

    if not distributions:
        raise ValueError("distributions is empty; give at least one")
    if any(not np.array_equal(one.edges, distributions[0].edges) for one in distributions):
        raise ValueError("distributions have different bins; make them together by max_logit_distributions")
    kinds = list(dict.fromkeys(one.images for one in distributions))
    networks = list(dict.fromkeys(one.network for one in distributions))
    colours = {network: COLOURS[place % len(COLOURS)] for place, network in enumerate(networks)}
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(max(4.5, 4.0 * columns), 0.8 + 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    highest = max(float(one.density.max()) for one in distributions)
    for place, (axes, kind) in enumerate(zip(panels, kinds, strict=False)):
        for one in distributions:
            if one.images == kind:
                colour = colours[one.network]
                axes.stairs(one.density, one.edges, color=colour, fill=True, alpha=0.3)
                label = f"{literal(one.network)}: {one.mean:.1f} ± {one.std:.1f}"
                axes.stairs(one.density, one.edges, color=colour, lw=1.3, label=label)
                axes.vlines(one.mean, 0.0, highest, color=colour, lw=1.0, linestyle="--")
        axes.set_title(f"{kind} images", fontsize=10)
        axes.legend(loc="upper right", fontsize=9, frameon=False, title="mean ± std over images", title_fontsize=8)
        axes.grid(alpha=0.3)
        if place % columns == 0:
            axes.set_ylabel("density")
        if place >= len(kinds) - columns:
            axes.set_xlabel("maximum logit")
            axes.tick_params(labelbottom=True)
    panels[0].set_ylim(0.0, highest * (1.1 + 0.13 * (1 + len(networks))))  # room for the legends
    headline(figure, title, reduced)
    return figure


def _largest(key: tuple[str, str], logits: ArrayLike) -> npt.NDArray[np.float64]:
    name = ", ".join(key)
    values = logits.detach().cpu().numpy() if isinstance(logits, torch.Tensor) else np.asarray(logits)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"logits of {name} are {values.shape}; expected (N, K), both at least 1")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"logits of {name} have values that are NaN or infinite")
    return values.max(1)
