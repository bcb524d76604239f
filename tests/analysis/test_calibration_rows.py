"""A trial's own calibration that every evaluation has beside it anyway stands once in its tables."""

import re

import pytest

from ddcal.analysis.calibration_rows import calibration_rows
from ddcal.analysis.further_rows import further_tables
from ddcal.study import run_study
from ddcal.study.export.export import export_trial

OWN = {"none": "raw", "ts_train": "ts_train", "ts_val": "ts_val", "vs_val": "vs_val"}
"""``calibrate.method`` → what the trial's own calibration is called in tables."""


@pytest.fixture(scope="module")
def results(tiny_study, tmp_path_factory):
    enqueue = [{"calibrate.method": method} for method in OWN]
    config = tiny_study(
        base={"evaluate": {"also": ["signs"]}},
        space={"calibrate.method": {"choice": list(OWN)}},
        search={"trials": len(OWN), "enqueue": enqueue},
    )
    return run_study(config, output=tmp_path_factory.mktemp("runs"), debug=True)


@pytest.mark.parametrize("place", range(len(OWN)), ids=list(OWN))
def test_a_trials_own_calibration_stands_once(results, tmp_path, place):
    trial = results.records[place]
    own, metrics = OWN[trial.config.calibrate.method], trial.metrics
    expected = ["raw", "ts_train", *([own] if own == "vs_val" else []), "ts_val"]
    _, rows = calibration_rows(trial)
    assert [row.name for row in rows] == expected and [row.name for row in rows if row.own] == [own]
    assert next(row.nll for row in rows if row.own) == metrics["test/nll"]
    (signs,) = further_tables(trial)
    assert [row[0] for row in signs.rows] == expected
    assert signs.rows[expected.index(own)][1] == f"{metrics['test/over_confidence']:.4f}"
    readme = (export_trial(results, trial, tmp_path / "out") / "README.md").read_text()
    table = re.findall(r"^\| ([a-z_]+(?: \(this run\))?) \| (\d\.\d{4}) \|", readme, re.MULTILINE)
    marked = [f"{name} (this run)" if name == own else name for name in expected]
    assert [name for name, _ in table] == marked and table[expected.index(own)][1] == f"{metrics['test/ece']:.4f}"
    cells = re.findall(r"<td>((?:raw|[tv]s_[a-z]+)(?: \(this trial\))?)</td><td>[\d.]", trial._repr_html_())
    assert cells == [name.replace("run", "trial") for name in marked]
