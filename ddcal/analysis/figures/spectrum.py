"""How evenly a distilled set spreads its information: the cumulative explained ratio of its singular values (Figure 1).

The supplement, B.2: distilled data with condensed information has a curve skewed to the top left, evenly distributed
information one close to the diagonal. As method.md defines it: σ (not σ²) of the uncentred matrix whose rows are the
flattened network-input images, over equal numbers of images for all sets that are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ddcal.analysis.labels import COLOURS, headline
from ddcal.pictures import literal

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

SVD_ELEMENTS = 2**23
"""Numbers of the matrix (64 MiB in float64) up to which `torch.linalg.svdvals` takes it as it is."""

LARGEST_SIDE = 12_288
"""The largest smaller side of the matrix: 64-px colour images. The Gram matrix then has 1.1 GiB."""

GRAM_ROWS = 1024
"""Images (or pixels) that are multiplied at a time."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The singular values of one set of images.

    Attributes:
        label: The set's name in the figure, usually its backbone.
        masked: Distilled with MDT.
        images: N.
        cumulative: float64 (R,), the share of the i + 1 largest singular values in the sum of all, rising to 1;
            R = min(N, C·H·W).
        area: Area under the curve from (0, 0) to (1, 1): 0.5 where all are equal, 1 - 1/(2R) where only one is not 0.
        effective_rank: exp of the entropy of σ_i/Σσ (Roy, Vetterli, "The effective rank", EUSIPCO 2007): R where all
            are equal, 1 where only one is not 0.
        rank_bound: The most singular values that can be above 0, whatever was distilled.
        bounded_by: What bounds them: ``images``, ``pixels``, or ``bases`` (RTP decodes every image from these, and
            cannot be as even as other sets).
    """

    label: str
    masked: bool
    images: int
    cumulative: npt.NDArray[np.float64]
    area: float
    effective_rank: float
    rank_bound: int
    bounded_by: str


def spectrum(images: Tensor, label: str, *, masked: bool = False, bases: int | None = None) -> Spectrum:
    """Return the spectrum of a set of images.

    All singular values are computed, for their sum is a part of every ratio: the first ones of a randomised
    decomposition would leave it unknown. `singular_values` says how.

    Args:
        images: float (N, C, H, W), preprocessed as networks see them.
        label: The set's name in the figure.
        masked: The set was distilled with MDT; its curve is dashed.
        bases: RTP's ``distill.rtp.bases``; None for images that are free.

    Raises:
        ValueError: if ``bases`` is below 1, all images are zero, or as `singular_values`.
    """
    if bases is not None and bases < 1:
        raise ValueError(f"bases is {bases}; it must be at least 1")
    values = singular_values(images)
    total = float(values.sum())
    if total == 0.0:
        raise ValueError(f"{label}: all images are zero; their singular values have no shares")
    shares = values / total
    cumulative = np.minimum(np.cumsum(shares), 1.0)
    cumulative[-1] = 1.0
    # The trapezoid under the points (0, 0), (1/R, c_1), …, (1, 1).
    area = float((cumulative.sum() - 0.5) / len(cumulative))
    some = shares[shares > 0.0]
    bounds = {"images": len(images), "pixels": images[0].numel()}
    if bases is not None:
        bounds["bases"] = bases
    by = min(bounds, key=bounds.__getitem__)
    return Spectrum(
        label=label,
        masked=masked,
        images=len(images),
        cumulative=cumulative,
        area=area,
        effective_rank=float(np.exp(-(some * np.log(some)).sum())),
        rank_bound=bounds[by],
        bounded_by=by,
    )


def singular_values(images: Tensor) -> npt.NDArray[np.float64]:
    """Return all singular values of the flattened, uncentred images, from the largest on; float64 (min(N, C·H·W),).

    Up to `SVD_ELEMENTS` numbers by `torch.linalg.svdvals` in float64; above as square roots of the eigenvalues of
    the smaller Gram matrix, whose rounding hides singular values below about 1e-7 of the largest: these are 0. Both
    compute on the CPU.

    Raises:
        ValueError: if images are not float (N, C, H, W) with N of at least 1 and finite values, or both N and C·H·W
            are above `LARGEST_SIDE`.
    """
    if images.ndim != 4 or images.numel() == 0 or not images.dtype.is_floating_point:
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected float (N, C, H, W), N at least 1")
    matrix = images.detach().flatten(1).cpu()
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("images have values that are NaN or infinite; their singular values are not defined")
    side = min(matrix.shape)
    if side > LARGEST_SIDE:
        raise ValueError(
            f"images are {len(matrix)} of {matrix.shape[1]} numbers each; one of the two must be at most "
            f"{LARGEST_SIDE}: take fewer images of every class"
        )
    if matrix.numel() <= SVD_ELEMENTS:
        return torch.linalg.svdvals(matrix.double()).numpy()
    return _by_gram_matrix(matrix)


def spectrum_frame(spectra: Sequence[Spectrum]) -> pandas.DataFrame:
    """Return the curves, one row a point: label, masked, component (from 1), share of components, cumulative."""
    import pandas

    rows = [
        {"label": one.label, "masked": one.masked, "component": place + 1, "share": (place + 1) / len(one.cumulative),
         "cumulative": value}
        for one in spectra
        for place, value in enumerate(one.cumulative.tolist())
    ]  # fmt: skip
    return pandas.DataFrame(rows, columns=["label", "masked", "component", "share", "cumulative"])


def spectrum_summary(spectra: Sequence[Spectrum]) -> pandas.DataFrame:
    """Return one row a set: label, masked, images, area, effective_rank, rank_bound, bounded_by."""
    import pandas

    names = ["label", "masked", "images", "area", "effective_rank", "rank_bound", "bounded_by"]
    return pandas.DataFrame([{name: getattr(one, name) for name in names} for one in spectra], columns=names)


def plot_spectra(spectra: Sequence[Spectrum], *, title: str = "", reduced: bool = False) -> Figure:
    """Return Figure 1: one curve a set, in the order given, sets with MDT dashed; the legend tells their numbers.

    Sets of one label have one colour.

    Args:
        spectra: At least one, all of the same number of images.
        title: Written above.
        reduced: Write that the scale is not the paper's.

    Raises:
        ValueError: if there are none, or their numbers of images or of singular values differ.
    """
    from matplotlib.figure import Figure

    if not spectra:
        raise ValueError("spectra is empty; give at least one")
    sizes = {one.label: (one.images, len(one.cumulative)) for one in spectra}
    if len({(one.images, len(one.cumulative)) for one in spectra}) > 1:
        each = ", ".join(f"{label}: {images}" for label, (images, _) in sizes.items())
        raise ValueError(f"the sets have different numbers of images or of pixels ({each}); take equal numbers")
    figure = Figure(figsize=(9.5, max(5.4, 0.9 + 0.37 * (len(spectra) + 1))), layout="constrained")
    axes = figure.add_subplot()
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(sizes)}
    for one in spectra:
        count = len(one.cumulative)
        x = np.arange(count + 1) / count * 100.0
        y = np.concatenate(([0.0], one.cumulative)) * 100.0
        name = f"{one.label} + MDT" if one.masked else one.label
        bound = f", rank ≤ {one.rank_bound} ({one.bounded_by})" if one.bounded_by == "bases" else ""
        label = f"{literal(name)}: area {one.area:.3f}\neffective rank {one.effective_rank:.1f}{bound}"
        axes.plot(x, y, color=colours[one.label], lw=1.6, linestyle="--" if one.masked else "-", label=label)
    axes.plot((0, 100), (0, 100), color="#888888", lw=1.0, linestyle=":", label="all equal: area 0.5", zorder=1)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    first = spectra[0]
    axes.set_xlabel(f"largest singular values (% of {len(first.cumulative)}; {first.images} images)")
    axes.set_ylabel("cumulative explained ratio (% of the sum of σ)")
    axes.grid(alpha=0.3)
    axes.set_aspect("equal", adjustable="box")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9, handlelength=2.8)
    headline(figure, title, reduced)
    return figure


def _by_gram_matrix(matrix: Tensor) -> npt.NDArray[np.float64]:
    """Return the singular values of a large matrix from the Gram matrix of its smaller side."""
    rows, columns = matrix.shape
    side = min(rows, columns)
    gram = torch.zeros(side, side, dtype=torch.float64)
    chunks = matrix.split(GRAM_ROWS, dim=1 if rows <= columns else 0)
    for chunk in chunks:
        part = chunk.double()
        gram += part @ part.T if rows <= columns else part.T @ part
    squares = torch.linalg.eigvalsh(gram).flip(0)
    noise = float(squares[0]) * side * torch.finfo(torch.float64).eps
    return torch.where(squares > noise, squares, 0.0).sqrt().numpy()
