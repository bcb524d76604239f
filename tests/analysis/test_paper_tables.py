"""The published numbers, and ours beside them."""

import numpy as np
import pandas
import pytest
from matplotlib.text import Text

from ddcal.analysis.figures.table_figure import plot_table
from ddcal.analysis.labels import REDUCED_NOTE
from ddcal.analysis.paper_tables import TABLES, beside_published, published, source, table_cells, table_title
from ddcal.calibration import save_figure


def runs(methods, ipc=10, backbone="dsa", dataset="cifar10"):
    rows = [
        {"dataset": dataset, "backbone": backbone, "ipc": ipc, "method": m, "seed": s, "network": n,
         "value": 0.4 + s / 10}
        for m in methods for s in range(2) for n in range(2)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def test_the_published_numbers():
    assert [len(published(name)) for name in TABLES] == [12, 24, 19 + 17 + 10]
    first = published("table1").set_index(["dataset", "method"])
    assert first.loc[("imagenette", "ts_holdout"), ["published", "published_spread"]].tolist() == [61.36, 1.6]
    second = published("table2").set_index(["dataset", "method"])["published"]
    assert (second["cifar100", "mts"], second["tiny-imagenet", "label_smoothing"]) == (1.84, 3.29)
    third = published("ddnn")
    assert third[third["ipc"].isna()]["published"].tolist() == [84.8, 56.2, 37.6]
    for name in TABLES:
        assert source(name) and table_title(name)
    with pytest.raises(ValueError, match="table is 'table3'"):
        published("table3")


def test_ours_stand_beside_them():
    both = beside_published(runs(["mdt", "own", "mts"]), "table1", reduced=True)
    assert both["method"].tolist() == ["mts", "ts_holdout", "mdt", "own"]
    assert both["published"].tolist()[:3] == [70.48, 69.78, 69.98] and np.isnan(both["published"][3])
    assert both["mean"][0] == pytest.approx(45) and np.isnan(both["mean"][1])
    assert both["between_sets"][0] == pytest.approx(10 / np.sqrt(2)) and both["between_networks"][0] == 0
    assert (both["sets"][0], both["networks"][0]) == (2, 4) and set(both["note"]) == {REDUCED_NOTE}
    assert "note" not in beside_published(runs(["mts"]), "table1")


def test_full_data_meets_full_data():
    both = beside_published(runs(["raw"], ipc=None, backbone="full"), "ddnn").set_index("published_setting")
    assert both.loc["full data", "mean"] == pytest.approx(45) and both.loc["full data", "published"] == 84.8
    assert both["mean"].notna().sum() == 1


def test_a_dataset_that_the_paper_lacks_stands_alone():
    both = beside_published(runs(["raw", "mts"], dataset="digits"), "table2")
    assert both["method"].tolist() == ["raw", "mts"] and both["published"].isna().all()
    assert "published\n(%)" not in table_cells(both)


def test_bad_runs_are_refused():
    with pytest.raises(ValueError, match="lacks the columns value"):
        beside_published(runs(["mts"]).drop(columns="value"), "table1")
    with pytest.raises(ValueError, match=r"value is 45"):
        beside_published(runs(["mts"]).assign(value=45.0), "table1")


@pytest.mark.slow
def test_the_picture(tmp_path):
    cells = table_cells(beside_published(runs(["mts", "mdt"]), "table1"))
    figure = plot_table(cells, title="Table 1", footnote=source("table1"), reduced=True)
    words = [text.get_text() for text in figure.findobj(Text)]
    assert f"({REDUCED_NOTE})" in words and "70.48" in words and words.count("cifar10") == 1
    assert figure.get_figwidth() <= 13.5
    paths = [save_figure(plot_table(cells), tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(ValueError, match="inches wide"):
        plot_table(cells.assign(more="much " * 60))
    with pytest.raises(ValueError, match="empty"):
        plot_table(cells[:0])
