"""Means of repeated runs, with the spread between distilled sets and that between networks on one set apart.

method.md, Variance: the draw of a set moves its accuracy by points, networks on one set by tenths; one spread over both
would hide which of the two was repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas

NUMBERS = ("mean", "between_sets", "between_networks", "sets", "networks")


def over_seeds(frame: pandas.DataFrame, by: Sequence[str], value: str) -> pandas.DataFrame:
    """Return one row a group, in the order in which groups come.

    Args:
        frame: The columns ``by``, ``seed`` (of the distilled set) and ``value``. One row a network with a column
            ``network`` (which of those on that set); or one row a set, ``value`` being the mean of its networks, and
            then, where known, ``networks`` (how many) and ``std`` (of theirs, divided by n - 1; NaN for one).
        by: Columns that make a group; missing values are a group of their own.
        value: Column of the numbers.

    Returns:
        The columns ``by`` and ``mean`` (over sets, of the means over networks), ``between_sets`` (standard deviation
        of the sets' means, divided by n - 1; NaN for one set), ``between_networks`` (root of the mean variance of
        networks on one set, divided by n - 1; NaN where no set has two), ``sets`` and ``networks`` (in all).

    Raises:
        ValueError: if a column is missing, a value is NaN or infinite, two rows of a group are the same run, or
            ``std`` stands without ``networks`` or either beside ``network``.
    """
    import pandas

    given = {"network", "networks", "std"} & set(frame.columns)
    if ("network" in given and len(given) > 1) or given == {"std"}:
        found = ", ".join(sorted(given))
        raise ValueError(f"the frame has the columns {found}; it may have network, or networks, or networks and std")
    names = [*by, "seed", value]
    if missing := [name for name in names if name not in frame.columns]:
        raise ValueError(f"the frame lacks the columns {', '.join(missing)}; it needs {', '.join(names)}")
    if not np.isfinite(frame[value].astype(float)).all():
        raise ValueError(f"column {value} has values that are NaN or infinite; leave out runs without a result")
    run = [*by, "seed", *(["network"] if "network" in given else [])]
    if len(twice := frame[frame.duplicated(run)]):
        shown = ", ".join(f"{name} {twice.iloc[0][name]}" for name in run)
        raise ValueError(f"two rows are the same run ({shown}); a column network tells networks of one set apart")
    rows = []
    for key, group in frame.groupby(list(by), sort=False, dropna=False):
        sets = group.groupby("seed", sort=True)[value]
        means = sets.mean()
        variances = (group["std"] ** 2 if "std" in given else sets.var(ddof=1)).dropna()
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "mean": float(means.mean()),
                "between_sets": float(means.std(ddof=1)),
                "between_networks": float(np.sqrt(variances.mean())) if len(variances) else np.nan,
                "sets": len(means),
                "networks": int(group["networks"].sum()) if "networks" in given else len(group),
            }
        )
    return pandas.DataFrame(rows, columns=[*by, *NUMBERS]).astype({name: frame[name].dtype for name in by})
