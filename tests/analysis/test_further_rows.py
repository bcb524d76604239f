"""Tables of what was measured beyond the usual metrics: every number is the trial's, and nothing is there unasked."""

import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from ddcal.analysis.further_rows import further_tables
from ddcal.analysis.report.study_page import study_report
from ddcal.cli.console import print_summary
from ddcal.study import run_study


@pytest.fixture(scope="module")
def results(tiny_study, tmp_path_factory):
    home = tmp_path_factory.mktemp("further")
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    labels = np.arange(20) % 2
    np.savez(home / "noise.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    shift = {"corruptions": ["contrast"], "datasets": [str(home / "noise.npz")], "images": 50}
    evaluate = {"also": ["conformal", "signs", "networks"], "shift": shift}
    base = {"train": {"networks": 2}, "evaluate": evaluate}
    return run_study(tiny_study(base=base, search={"trials": 1}), output=home, debug=True)


def test_every_number_is_the_trials(results):
    metrics, tables = results.best.metrics, further_tables(results.best)
    sets, signs, together, corrupted, other = tables
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[0] for row in sets.rows] == ["raw", "ts_train", "mts", "ts_val"]
    assert sets.columns[1:3] == ("THR coverage", "THR size")
    for row, prefix in zip(sets.rows, ("test/raw/", "test/ts_train/", "test/", "test/ts_val/"), strict=True):
        assert row[5:] == [f"{metrics[f'{prefix}raps_{what}']:.4f}" for what in ("coverage", "size")]
    assert signs.rows[0][1:] == [f"{metrics[f'test/raw/{sign}_confidence']:.4f}" for sign in ("over", "under")]
    assert together.rows[2][1] == f"{metrics['test/ensemble/ece']:.4f}"
    assert f"{metrics['test/disagreement']:.4f}" in together.title
    assert [row[0] for row in corrupted.rows] == [
        "as they are",
        "contrast, mean of 1 to 5",
        "contrast 5",
        "mean of all",
    ]
    assert corrupted.columns == ("images", "accuracy", "ECE raw", "ECE ts_train", "ECE mts", "ECE ts_val")
    assert corrupted.rows[2][1] == f"{metrics['test/shift/contrast-5/accuracy']:.4f}"
    assert corrupted.rows[1][5] == f"{metrics['test/ts_val/shift/contrast/ece']:.4f}"
    assert [row[:2] for row in other.rows] == [
        ["noise", name] for name in ("raw", "ts_train", "mts", "ts_val", "energy")
    ]
    assert other.rows[4][2] == f"{metrics['test/raw/ood/noise/energy/auroc']:.4f}"


def test_the_page_and_the_terminal_show_them(results, capsys):
    print_summary(results, Console(width=300))
    said, page = " ".join(capsys.readouterr().out.split()), study_report(results).read_text()
    for table in further_tables(results.best):
        assert table.title in said and table.title[1:] in page
        for row in table.rows:
            assert re.search("[ \u2502]+".join(map(re.escape, row)), said), row
            assert re.search("</td><td[^>]*>".join(map(re.escape, row)), page), row


def test_nothing_is_shown_that_was_not_measured(results):
    metrics = results.best.metrics
    usual = {name: value for name, value in metrics.items() if re.fullmatch(r"(val|test)/((raw|ts_\w+)/)?[a-z]+", name)}
    assert "test/raw/ece" in usual and further_tables(replace(results.best, metrics=usual)) == []


def test_of_one_network_none_disagrees(results):
    values = results.best.config_values
    one = replace(results.best, config_values=values | {"train": values["train"] | {"networks": 1}})
    title = further_tables(one)[2].title
    assert title == "the mean of the probabilities of 1 network on test"
    assert "of 2 networks on test; two of them disagree on" in further_tables(results.best)[2].title
