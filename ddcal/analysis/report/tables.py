"""The paper's tables with our numbers: Table 1, Table 2, and the accuracies of DDNNs beside the published ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddcal.analysis.figures.table_figure import plot_table
from ddcal.analysis.labels import REDUCED_NOTE, method_label
from ddcal.analysis.paper_tables import TableName, beside_published, published, source, table_cells, table_title
from ddcal.analysis.report.artefacts import Artefacts, Lost
from ddcal.analysis.report.cells import Cell, Collected, per_class
from ddcal.analysis.report.methods import BY_NAME, FDNN_METHODS, MTS, method_cell, real_labels
from ddcal.analysis.report.numbers import Row, labels_used, number, run_frame, write_rows
from ddcal.analysis.report.page import Entry, Page
from ddcal.pictures import save_figure

FULL, MDT = "full", "distill.mask.ratio"
TABLE_1: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "mts": ("full set, MTS", {MDT: 0.0, "calibrate.method": "mts"}),
    "ts_holdout": (method_label("ts_holdout"), {MDT: 0.0, "calibrate.method": "ts_holdout"}),
    "mdt": (method_label("mdt"), {MDT: 0.1}),
}
"""The columns of Table 1: name → label, and the settings of its trials."""


def table1_rows(found: Collected) -> Iterator[Row]:
    """Yield the rows of Table 1: the accuracy on ``test``."""
    for name, (label, where) in TABLE_1.items():
        cell = found.cell("accuracy", "test/accuracy", where)
        yield _row(found, cell, "accuracy", name, label)


def table2_rows(found: Collected, artefacts: Artefacts) -> Iterator[Row]:
    """Yield the rows of Table 2: the ECE of FDNNs on ``test``."""
    val = val_images(found, "fdnn", artefacts)
    for name in FDNN_METHODS:
        method = BY_NAME[name]
        cell = method_cell(found, "fdnn", method, "ece", {"distill.backbone": FULL})
        label = "MTS, masked real val" if name == "mts" else method.label
        yield Row(found.dataset, FULL, None, name, label, cell, real_labels(method, FULL, val))


def ddnn_rows(found: Collected) -> Iterator[Row]:
    """Yield the accuracies of DDNNs and of the FDNN, raw networks of cross-entropy on ``test``."""
    runs = found.select("ddnn", MTS)
    settings = dict.fromkeys((run.settings["distill.backbone"], run.settings["distill.ipc"]) for run in runs)
    for backbone, ipc in settings:
        cell = found.cell("ddnn", "test/accuracy", {**MTS, "distill.backbone": backbone, "distill.ipc": ipc})
        yield Row(found.dataset, backbone, ipc, "", f"{backbone}, {per_class(ipc)}", cell)
    yield Row(found.dataset, FULL, None, "", "full data", found.cell("fdnn", "test/accuracy", MTS))


def put_table(page: Page, name: TableName, rows: Sequence[Row], folder: Path, *, reduced: bool, note: str = "") -> None:
    """Put a table on the page, our numbers beside the published ones, and write its CSV and its picture.

    Args:
        page: The page.
        name: Of the published numbers.
        rows: Of all datasets.
        folder: Where the files go.
        reduced: Whether the scale is not the paper's.
        note: What else there is to say.
    """
    theirs = {_key(record, name): record for record in published(name).to_dict("records")}
    percents = {key: record["published"] for key, record in theirs.items()}
    path = write_rows(
        rows, folder / f"{name}.csv", reduced=reduced, published=[percents.get(_row_key(row, name)) for row in rows]
    )
    files = [path]
    frame = run_frame(rows)
    if name == "ddnn":
        frame["method"] = "raw"
    if len(frame):
        cells = table_cells(beside_published(frame, name, reduced=reduced))
        figure = plot_table(cells, title=table_title(name), footnote=source(name), reduced=reduced)
        files.append(save_figure(figure, folder / f"{name}.png"))
    told = name == "table2"
    columns = [
        "dataset",
        "networks",
        "ours, %",
        *(["real labels used"] if told else []),
        "published, %",
        "published for",
    ]
    entries: list[list[Entry]] = []
    for row in rows:
        record = theirs.get(_row_key(row, name))
        used = [labels_used(row)] if told else []
        entries.append([row.dataset, row.label, number(row), *used, _published(record), _setting(record)])
    page.table(columns, entries, caption=table_title(name), files=files)
    if reduced:
        page.text(f"{REDUCED_NOTE}.", "reduced")
    page.text(
        "Ours: mean ± standard deviation over seeds (sets where something is distilled); a seed's number is the mean "
        "over "
        f"its networks. Published: {source(name)} {note}".strip(),
        "note",
    )


def val_images(found: Collected, stem: str, artefacts: Artefacts) -> int | None:
    """Return how many images ``val`` has in the trials of a stem; None where none is left to tell."""
    for run in found.runs(stem):
        if run.gap is None:
            try:
                return artefacts.val_images(run)
            except Lost:
                continue
    return None


def _row(found: Collected, cell: Cell, stem: str, name: str, label: str) -> Row:
    """Return a row whose backbone and ipc are those of its trials, or of the stem's first one."""
    run = cell.runs[0] if cell.runs else next(iter(found.runs(stem)), None)
    backbone = run.settings["distill.backbone"] if run else "–"
    ipc = run.settings["distill.ipc"] if run else None
    where = f" ({backbone}, {per_class(ipc)})" if run and ipc else ""
    return Row(found.dataset, backbone, ipc, name, f"{label}{where}", cell, 0)


def _key(record: Mapping[Any, Any], name: TableName) -> tuple[Any, ...]:
    import pandas

    if name != "ddnn":
        return (record["dataset"], record["method"])
    return (record["dataset"], record["backbone"], None if pandas.isna(record["ipc"]) else int(record["ipc"]))


def _row_key(row: Row, name: TableName) -> tuple[Any, ...]:
    return (row.dataset, row.backbone, row.ipc) if name == "ddnn" else (row.dataset, row.method)


def _published(record: Mapping[Any, Any] | None) -> str:
    if record is None:
        return "–"
    spread = record.get("published_spread")
    return f"{record['published']:.2f}" + (f" ± {spread:g}" if spread is not None and spread == spread else "")


def _setting(record: Mapping[Any, Any] | None) -> str:
    return "–" if record is None else str(record["published_setting"])
