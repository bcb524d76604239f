"""ECE against the mask ratio of MTS, and against images per class (Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddcal.analysis.labels import MAX_WIDTH, Look, headline, method_label, method_looks
from ddcal.analysis.statistics import over_seeds
from ddcal.pictures import literal

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO_COLUMNS = ("dataset", "backbone", "ipc", "method", "ratio", "seed", "ece")
"""Columns that `ece_against_ratio` needs; those of networks that `over_seeds` knows may be there too."""

IPC_COLUMNS = ("dataset", "backbone", "method", "ipc", "seed", "ece")
"""Columns that `ece_against_ipc` needs; those of networks that `over_seeds` knows may be there too."""


def ece_against_ratio(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return mean and spread of the ECE, one row a (dataset, backbone, ipc, method, ratio).

    Args:
        frame: One row a network or a set, with `RATIO_COLUMNS`: ``ece`` a fraction, ``ipc`` missing for full data,
            ``ratio`` missing for methods that have none (``raw``, ``ts_val``, ``noise_floor``).

    Returns:
        The columns of `over_seeds`; ECE in percent.

    Raises:
        ValueError: as `over_seeds`, or if a ratio is outside [0, 1] or an ECE is.
    """
    _check(frame, RATIO_COLUMNS)
    outside = frame["ratio"].dropna()
    outside = outside[(outside < 0.0) | (outside > 1.0)]
    if len(outside):
        raise ValueError(f"ratio is {outside.iloc[0]}; it must be in [0, 1], or missing for methods without a mask")
    return _percent(over_seeds(frame, ["dataset", "backbone", "ipc", "method", "ratio"], "ece"))


def ece_against_ipc(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return mean and spread of the ECE, one row a (dataset, backbone, method, ipc).

    Args:
        frame: One row a network or a set, with `IPC_COLUMNS`: ``ece`` a fraction, ``ipc`` at least 1.

    Returns:
        The columns of `over_seeds`; ECE in percent.

    Raises:
        ValueError: as `over_seeds`, or if an ipc is below 1 or missing, or an ECE is outside [0, 1].
    """
    _check(frame, IPC_COLUMNS)
    if wrong := [one for one in frame["ipc"].unique() if not one >= 1]:
        raise ValueError(f"ipc is {wrong[0]}; it must be at least 1")
    return _percent(over_seeds(frame, ["dataset", "backbone", "method", "ipc"], "ece"))


def plot_ece_against_ratio(curves: pandas.DataFrame, *, title: str = "", reduced: bool = False) -> Figure:
    """Return a panel for each (dataset, backbone, ipc): a line a method with a band of one spread between sets.

    Methods without ratios are horizontal lines.

    Args:
        curves: Of `ece_against_ratio`.
        title: Written above.
        reduced: Write that the scale is not the paper's.

    Raises:
        ValueError: if there are no rows.
    """
    figure, panels = _panels(curves, ["dataset", "backbone", "ipc"])
    looks = method_looks(curves["method"])
    for axes, rows in panels:
        for method, line in rows.groupby("method", sort=False):
            _ratio_line(axes, str(method), line, looks[str(method)])
        axes.set_xlabel("mask ratio")
        axes.set_xlim(-0.02, max(0.92, float(rows["ratio"].max()) + 0.02))
    _finish(figure, [axes for axes, _ in panels], title, reduced)
    return figure


def plot_ece_against_ipc(curves: pandas.DataFrame, *, title: str = "", reduced: bool = False) -> Figure:
    """Return Figure 2: a panel for each (dataset, backbone), a line a method, bars of one spread between sets.

    Args:
        curves: Of `ece_against_ipc`.
        title: Written above.
        reduced: Write that the scale is not the paper's.

    Raises:
        ValueError: if there are no rows.
    """
    figure, panels = _panels(curves, ["dataset", "backbone"])
    looks = method_looks(curves["method"])
    shift = {method: 1.0 + 0.018 * (place - (len(looks) - 1) / 2) for place, method in enumerate(looks)}
    for axes, rows in panels:
        for name, line in rows.groupby("method", sort=False):
            method, points = str(name), line.sort_values("ipc")
            axes.errorbar(
                points["ipc"].astype(float) * shift[method], points["mean"], points["between_sets"].fillna(0.0),
                color=looks[method].colour, marker=looks[method].marker, markersize=6, lw=1.5, capsize=2, elinewidth=1,
                label=method_label(method),
            )  # fmt: skip
        counts = sorted({int(one) for one in rows["ipc"]})
        axes.set_xscale("log")
        axes.set_xlim(counts[0] / 1.4, counts[-1] * 1.4)
        axes.set_xticks(counts, [str(one) for one in counts])
        axes.set_xticks((), minor=True)
        axes.set_xlabel("images per class (log scale)")
    _finish(figure, [axes for axes, _ in panels], title, reduced)
    return figure


def _check(frame: pandas.DataFrame, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in frame.columns]:
        raise ValueError(f"the frame lacks the columns {', '.join(missing)}; it needs {', '.join(names)}")
    outside = frame["ece"][(frame["ece"] < 0.0) | (frame["ece"] > 1.0)]
    if len(outside):
        raise ValueError(f"ece is {outside.iloc[0]}; it must be a fraction in [0, 1]")


def _percent(curves: pandas.DataFrame) -> pandas.DataFrame:
    numbers = ["mean", "between_sets", "between_networks"]
    return curves.assign(**{name: 100.0 * curves[name] for name in numbers})


def _panels(curves: pandas.DataFrame, by: list[str]) -> tuple[Figure, list[tuple[Axes, pandas.DataFrame]]]:
    """Return a figure with a panel for each group of ``by``, and each panel with its rows."""
    from matplotlib.figure import Figure

    if curves.empty:
        raise ValueError("curves is empty; give at least one point")
    groups = list(curves.groupby(by, sort=False, dropna=False))
    datasets: dict[str, list[int]] = {}
    for place, (key, _) in enumerate(groups):
        datasets.setdefault(key[0], []).append(place)
    columns = 2 if len(groups) == 4 else min(3, len(groups))
    if len(datasets) in (2, 3) and len({len(places) for places in datasets.values()}) == 1:
        columns = len(datasets)  # a column a dataset
        groups = [groups[place] for row in zip(*datasets.values(), strict=True) for place in row]
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(min(MAX_WIDTH, max(6.5, 4.3 * columns)), 1.2 + 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    found = []
    for place, (axes, (key, part)) in enumerate(zip(panels, groups, strict=False)):
        axes.set_title(_name(dict(zip(by, key, strict=True))), fontsize=10)
        axes.grid(alpha=0.3)
        if place % columns == 0:
            axes.set_ylabel("ECE (%)")
        found.append((axes, part))
    return figure, found


def _name(of: dict[str, Any]) -> str:
    """Return a panel's name, such as ``cifar10, dsa, IPC 10``."""
    ipc = of.pop("ipc", None)
    words = [str(one) for one in of.values()]
    if ipc is not None and ipc == ipc:  # a missing value is not equal to itself
        words.append(f"IPC {int(ipc)}")
    return literal(", ".join(words))


def _ratio_line(axes: Axes, method: str, line: pandas.DataFrame, look: Look) -> None:
    flat, points = line[line["ratio"].isna()], line[line["ratio"].notna()].sort_values("ratio")
    for mean in flat["mean"]:
        axes.axhline(mean, color=look.colour, lw=1.5, linestyle="--", label=method_label(method))
    if len(points):
        mean, spread = points["mean"].to_numpy(float), np.nan_to_num(points["between_sets"].to_numpy(float))
        axes.plot(
            points["ratio"], mean, color=look.colour, marker=look.marker, markersize=6, lw=1.5,
            label=method_label(method),
        )  # fmt: skip
        axes.fill_between(points["ratio"], mean - spread, mean + spread, color=look.colour, alpha=0.18, linewidth=0)


def _finish(figure: Figure, panels: list[Axes], title: str, reduced: bool) -> None:
    entries: dict[str, Any] = {}
    for axes in panels:
        axes.set_ylim(bottom=0.0)
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, line)
    columns = max(2, int(figure.get_figwidth() / 1.9))
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=columns,
        columnspacing=1.2, handletextpad=0.4, frameon=False, fontsize=9,
    )  # fmt: skip
    headline(figure, title, reduced)
