import csv
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ddcal.analysis.comparison import compare_studies, find_studies, shown_facts
from ddcal.cli import app
from ddcal.study.record.ledger import LEDGER

OUTCOMES = ("complete", "complete", "failed")


def ddcal(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_studies_stand_beside_each_other(made_study, tmp_path):
    first, second = made_study("first", OUTCOMES), made_study("second", OUTCOMES)
    found = compare_studies([first, second])
    assert found.warnings == [] and list(found.facts) == ["first", "second"]
    facts = found.facts["first"]
    assert list(facts) == list(found.facts["second"])
    best = first.best
    assert facts["winner"] == best.trial_key and facts["confirmed"] == "no" and facts["calibration"] == "mts"
    assert facts["trials"].split("\n") == ["2 complete", "1 failed"]
    assert facts["searched calibrate.draws"] == best.values["calibrate.draws"]
    assert facts["val/ece"] == best.metrics["val/ece"] and facts["test accuracy"] == 0.75
    assert (facts["test ECE raw"], facts["test ECE calibrated"], facts["test ECE noise floor"]) == (0.25, 0.05, 0.01)

    picture, table = tmp_path / "fronts.png", tmp_path / "table.csv"
    result = ddcal("compare", first.directory.parent, "--to", picture, "--csv", table, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == {"studies": found.facts, "warnings": []}
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="") as stream:
        assert [row["label"] for row in csv.DictReader(stream)] == ["first", "second"]


def test_a_name_that_one_study_searches_and_another_fixes_has_both_values(made_study):
    searching = made_study("searching", OUTCOMES)
    fixing = made_study("fixing", OUTCOMES, fixed={"calibrate.draws": 7, "calibrate.t_min": 0.5})
    default = made_study("default", OUTCOMES, fixed={"calibrate.draws": 1, "calibrate.t_min": None})
    other = {"calibrate.method": "vs_val", "calibrate.draws": 7, "distill.backbone": "real", "distill.mask.ratio": 0.2}
    without = made_study("without", OUTCOMES, fixed=other)
    masked = made_study("masked", OUTCOMES, fixed={"distill.backbone": "dc", "distill.mask.ratio": 0.0})
    facts = compare_studies([searching, fixing, default, without, masked]).facts
    rows = {
        name: [one[f"searched {name}"] for one in facts.values()] for name in ("calibrate.draws", "calibrate.t_min")
    }
    drawn = [results.best.values["calibrate.draws"] for results in (searching, masked)]
    assert rows["calibrate.draws"] == [drawn[0], 7, 1, None, drawn[1]]
    assert rows["calibrate.t_min"][1:3] == [0.5, 1.0]
    assert (
        facts["without"]["searched distill.backbone"] == "real" and facts["masked"]["searched distill.backbone"] == "dc"
    )
    assert facts["without"]["searched distill.mask.ratio"] is None  # nothing is distilled by it
    assert facts["masked"]["searched distill.mask.ratio"] == 0.0
    assert shown_facts(compare_studies([searching, fixing]))["fixing"]["calibrate.draws"] == "7"


def test_the_table_fits_on_a_terminal(made_study, monkeypatch):
    roots = [made_study("a-study-with-a-rather-long-name", OUTCOMES, root=f"root{n}").directory for n in range(5)]
    monkeypatch.setattr("ddcal.cli.console.make_console", lambda: Console(width=100))
    result = ddcal("compare", *roots)
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 100
    assert "test ECE noise" in result.stdout


@pytest.mark.parametrize(
    ("different", "said"),
    [
        ({"data": "cifar10"}, ["datasets", "val splits", "test images"]),
        ({"fraction": 0.5}, ["val splits"]),
        ({"bins": 10}, ["ECE bins"]),
        ({}, []),
    ],
    ids=["data", "val", "bins", "same"],
)
def test_what_cannot_be_compared_is_said(made_study, different, said):
    found = compare_studies([made_study("first", OUTCOMES), made_study("second", OUTCOMES, **different)])
    assert [warning.split(" differ: ")[0] for warning in found.warnings] == said


def test_probes_beside_trained_networks_are_said(made_study):
    probes = made_study("probes", OUTCOMES, trial="distill")
    found = compare_studies([made_study("first", OUTCOMES), probes])
    assert found.warnings == [
        "networks measured differ: trained networks (first); the probe of a distilled set (probes)"
    ]
    assert [one["calibration"] for one in found.facts.values()] == ["mts", None]


@pytest.mark.parametrize(("bins", "said"), [(20, []), (10, ["ECE bins"])])
def test_probes_are_compared_by_the_bins_that_they_have(made_study, bins, said):
    probes = [made_study(name, OUTCOMES, trial="distill", bins=one) for name, one in (("first", 15), ("second", bins))]
    found = compare_studies(probes)
    assert [warning.split(" differ: ")[0] for warning in found.warnings] == said


def test_a_study_without_a_winner_has_gaps(made_study):
    found = compare_studies([made_study("first", OUTCOMES), made_study("second", ("failed",))])
    assert found.facts["second"]["winner"] is None and found.facts["second"]["test accuracy"] is None
    assert found.warnings == []


def test_other_objectives_give_no_picture(made_study, tmp_path):
    first, second = made_study("first", OUTCOMES), made_study("second", OUTCOMES, {"val/nll": "min"})
    result = ddcal("compare", first.directory, second.directory, "--to", tmp_path / "x.png")
    assert result.exit_code == 2 and "two objectives that all studies share" in result.output
    assert ddcal("compare", first.directory, second.directory).exit_code == 0


def test_what_a_kill_before_the_first_line_has_left_is_passed_over(made_study, write_study):
    directory = made_study("first", OUTCOMES).directory
    left = directory.parent / "left behind"
    left.mkdir()
    (left / LEDGER).write_text('{"event": "study_st')
    write_study(search={"trials": 1}).rename(left / "study.yaml")
    assert [one.directory for one in find_studies([directory.parent])] == [directory]
    for verb in ("compare", "status"):
        result = ddcal(verb, left)
        assert result.exit_code == 2 and f"`ddcal resume '{left}'` begins it" in result.output, result.output
    assert ddcal("resume", left, "--debug").exit_code == 0 and ddcal("status", left).exit_code == 0


def test_a_folder_without_studies_is_named(tmp_path):
    result = ddcal("compare", tmp_path)
    assert result.exit_code == 2 and str(tmp_path) in result.output
