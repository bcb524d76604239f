"""Our numbers beside the published ones (`published.yaml`): Table 1, Table 2, and the accuracies of DDNNs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ddcal.analysis.labels import REDUCED_NOTE, method_label
from ddcal.analysis.statistics import over_seeds

if TYPE_CHECKING:
    import pandas

TableName = Literal["table1", "table2", "ddnn"]
TABLES: tuple[TableName, ...] = ("table1", "table2", "ddnn")

OUR_COLUMNS = ("dataset", "backbone", "ipc", "method", "seed", "value")
"""Columns that `beside_published` needs of our runs; those of networks that `over_seeds` knows may be there too."""

COLUMNS = (
    *("dataset", "backbone", "ipc", "method", "mean", "between_sets", "between_networks", "sets", "networks"),
    *("published", "published_spread", "published_setting"),
)
"""Columns of `beside_published`; numbers in percent."""


def published(table: TableName) -> pandas.DataFrame:
    """Return a table's published numbers, one row a number.

    Returns:
        The table's keys (``dataset`` and ``method``, or ``dataset``, ``backbone`` and ``ipc``), ``published`` and
        ``published_spread`` in percent (NaN where none is reported), and ``published_setting``, such as
        ``mtt, IPC 50``.

    Raises:
        ValueError: for another table.
    """
    import pandas

    found = _table(table)
    rows: list[dict[str, Any]] = []
    for dataset, values in found["rows"].items():
        if table == "ddnn":
            for backbone, by_ipc in values.items():
                for ipc, mean in by_ipc.items():
                    setting = "full data" if backbone == "full" else f"{backbone}, IPC {ipc}"
                    key = {"dataset": dataset, "backbone": backbone, "ipc": ipc or None}
                    rows.append(key | {"published": mean, "published_setting": setting})
            continue
        for method, number in values.items():
            if method == "setting":
                continue
            mean, spread = number if isinstance(number, list) else (number, None)
            key = {"dataset": dataset, "method": method, "published": mean, "published_spread": spread}
            rows.append(key | {"published_setting": values["setting"]})
    names = [*found["keys"], "published", "published_spread", "published_setting"]
    frame = pandas.DataFrame(rows).reindex(columns=names)
    types = {"published": float, "published_spread": float} | ({"ipc": "Int64"} if "ipc" in names else {})
    return frame.astype(types)


def source(table: TableName) -> str:
    """Return where a table's published numbers are from.

    Raises:
        ValueError: for another table.
    """
    return str(_table(table)["source"])


def table_title(table: TableName) -> str:
    """Return a table's title.

    Raises:
        ValueError: for another table.
    """
    return str(_table(table)["title"])


def beside_published(runs: pandas.DataFrame, table: TableName, *, reduced: bool = False) -> pandas.DataFrame:
    """Return our numbers with the published ones beside them, one row a (dataset, backbone, ipc, method).

    Published numbers of our datasets that we have not run have a row without a mean. Datasets without published
    numbers have rows without these.

    Args:
        runs: One row a network or a set, with `OUR_COLUMNS`: ``ipc`` missing for full data; ``method`` as in
            ``published.yaml`` (``raw``, ``ts_holdout``, ``ts_val``, ``mts``, ``mdt``, ``mixup``, ``label_smoothing``,
            ``focal``; any other stands alone); ``seed`` of the distilled set; ``value`` a fraction (the accuracy or
            the ECE, as the table has it).
        table: Which.
        reduced: Add a column ``note`` with the words of reduced scale.

    Returns:
        `COLUMNS`, and ``note`` at reduced scale; datasets in our order, their rows in the published one.

    Raises:
        ValueError: as `over_seeds`, or for another table, or if a value is outside [0, 1].
    """
    theirs = published(table)
    keys: list[str] = _table(table)["keys"]
    if missing := [name for name in OUR_COLUMNS if name not in runs.columns]:
        raise ValueError(f"the frame lacks the columns {', '.join(missing)}; it needs {', '.join(OUR_COLUMNS)}")
    outside = runs["value"][(runs["value"] < 0.0) | (runs["value"] > 1.0)]
    if len(outside):
        raise ValueError(f"value is {outside.iloc[0]}; it must be a fraction in [0, 1]")
    ours = over_seeds(runs.astype({"ipc": "Int64"}), ["dataset", "backbone", "ipc", "method"], "value")
    for name in ("mean", "between_sets", "between_networks"):
        ours[name] *= 100.0
    theirs = theirs[theirs["dataset"].isin(ours["dataset"])]
    both = ours.merge(theirs, how="outer", on=keys).reindex(columns=list(COLUMNS))
    # By the table's keys, then by what else tells rows apart; each in the published order, then in that of the runs.
    for name in ("dataset", "backbone", "method"):
        known = ours[name] if name == "dataset" else [*published(table).get(name, ()), *ours[name]]
        both[f"place of {name}"] = both[name].map({one: at for at, one in enumerate(dict.fromkeys(known))})
    others = [name for name in ("backbone", "ipc", "method") if name not in keys]
    by = [name if name == "ipc" else f"place of {name}" for name in [*keys, *others]]
    both = both.sort_values(by, kind="stable", ignore_index=True)[list(COLUMNS)]
    both = both.astype({"sets": "Int64", "networks": "Int64"})
    return both.assign(note=REDUCED_NOTE) if reduced else both


def table_cells(beside: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table of `beside_published` as text, for people: columns that tell nothing are left out."""
    import pandas

    rows = []
    for row in beside.to_dict("records"):
        ran = not pandas.isna(row["mean"])
        rows.append(
            {
                "dataset": row["dataset"],
                "set": _setting(row["backbone"], row["ipc"]) if ran else "not run",
                "method": "–" if pandas.isna(row["method"]) else method_label(row["method"]),
                "ours (%)": _number(row["mean"]),
                "± between\nsets": _number(row["between_sets"]),
                "± between\nnetworks": _number(row["between_networks"]),
                "sets /\nnetworks": f"{row['sets']} / {row['networks']}" if ran else "–",
                "published\n(%)": _number(row["published"]),
                "published\n±": _number(row["published_spread"]),
                "published\nfor": "–" if pandas.isna(row["published_setting"]) else row["published_setting"],
            }
        )
    cells = pandas.DataFrame(rows)
    return cells[[name for name in cells if name in ("dataset", "ours (%)") or set(cells[name]) != {"–"}]]


def _setting(backbone: str, ipc: Any) -> str:
    import pandas

    if backbone == "full":
        return "full data"
    return backbone if pandas.isna(ipc) else f"{backbone}, IPC {ipc}"


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "–"


@functools.cache
def _published() -> dict[str, Any]:
    tables: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
    return tables


def _table(name: str) -> dict[str, Any]:
    if name not in TABLES:
        raise ValueError(f"table is {name!r}; it must be one of {', '.join(TABLES)}")
    found: dict[str, Any] = _published()[name]
    return found
