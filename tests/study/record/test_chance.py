"""A winner that guesses is said to guess: by hand-made results, and by a real study of networks that learn nothing."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ddcal.analysis.report.study_page import study_report
from ddcal.cli import app
from ddcal.config import TrialConfig
from ddcal.statistics import share_interval
from ddcal.study import load_study, run_study
from ddcal.study.record.chance import against_chance, chance_warning
from ddcal.study.record.events import CountedImages
from ddcal.study.record.results import Trial


def trial(accuracy, data="tiny-imagenet", **counted):
    config = TrialConfig.model_validate({"data": {"name": data}}).model_dump(mode="json")
    tested_on = CountedImages(**counted) if counted else None
    return Trial(0, "made-0000", {}, config, "complete", {"test/accuracy": accuracy}, tested_on=tested_on)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_is_wilsons(right, count, low, high):
    """The last is an example of Newcombe 1998 (Statistics in Medicine 17, Table I, method 3)."""
    assert share_interval(right / count, count) == pytest.approx((low, high), abs=5e-5)


BALANCED = {"images": 10000, "classes": 200, "largest": 50}


@pytest.mark.parametrize(
    ("accuracy", "counted", "better", "said"),
    [
        (0.0035, BALANCED, False, "below chance (0.0050; 95 % interval 0.0025 to 0.0049, Wilson over 10000 images)"),
        (0.0050, BALANCED, False, "which cannot be told from chance (0.0050; 95 % interval"),
        (0.0060, BALANCED, False, "cannot be told from chance"),
        (0.0080, BALANCED, True, None),
        (0.90, {"images": 100, "classes": 2, "largest": 90}, False, "cannot be told from chance (0.9000"),
        (0.99, {"images": 100, "classes": 2, "largest": 90}, True, None),
        (0.60, {"images": 100, "classes": 2, "largest": 50}, True, None),
        (0.0035, {}, False, "0.0035, not above chance (0.0050)"),  # a ledger of an earlier version
        (0.0051, {}, True, None),
    ],
)
def test_chance_is_what_the_most_common_class_gives(accuracy, counted, better, said):
    made = trial(accuracy, **counted)
    assert against_chance(made).better is better
    assert said is None if chance_warning(made) is None else said in chance_warning(made)


def test_where_nothing_is_known_nothing_is_said():
    running = replace(trial(0.1), metrics={"val/accuracy": 0.1}, outcome="pruned")
    assert against_chance(running) is None, "not at its end"
    assert against_chance(trial(0.1, data="cifar100")) is None, "an old ledger, and a name that says no classes"


def test_of_a_set_that_was_distilled_alone_the_probe_is_asked():
    made = replace(trial(0.004, **BALANCED), metrics={"val/accuracy": 0.005})
    assert chance_warning(made).startswith("the accuracy of the probe of made-0000 on val is 0.0050, which cannot be")
    assert against_chance(replace(made, metrics={"val/accuracy": 0.05})).better
    old = against_chance(replace(made, tested_on=None))
    assert (old.split, old.chance, old.low, old.better) == ("val", 0.005, None, False), "the name says its classes"


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "guesses"), [(1e-9, True), (0.1, False)])
def test_a_distill_study_whose_probe_guesses_says_so(tiny_study, tmp_path, monkeypatch, rate, guesses):
    """The probe of such a study is its only network; a rate of 1e-9 leaves it as it was drawn."""
    monkeypatch.setattr("ddcal.pipeline.compute.distill.DEFAULT_RATE", rate)
    base = {"distill": {"backbone": "real", "ipc": 10, "probe": {"points": 1, "epochs": 40, "images": 100}}}
    space, search = {"distill.ipc": {"choice": [10]}}, {"trials": 1, "searcher": "random"}
    made = tiny_study(
        trial="distill", base=base, space=space, search=search, storage={"store": str(tmp_path / "store")}
    )
    for folder in ("first", "from the store"):
        results = run_study(made, output=tmp_path / folder, debug=True)
        best = load_study(results.directory).best
        assert best.cache_hits == (() if folder == "first" else ("distill",))
        assert best.tested_on.images == 100 and best.tested_on.classes == 10
        warning = chance_warning(best)
        assert (warning is not None) == guesses, best.metrics
    shown = CliRunner().invoke(app, ["status", str(results.directory)]).output
    page = study_report(results).read_text()
    assert ("warning: the accuracy of the probe of" in shown) == guesses == ("the probe of tiny-0000 on val" in page)
    assert "on val, the probe of the distilled set (one short network, not calibrated), 15 bins" in page
    assert "Wilson, over 100 val images" in page


def test_a_study_whose_winner_guesses_says_so_everywhere(tiny_study, tmp_path):
    """A rate of 1e-9 leaves the networks as they were drawn."""
    base = {"train": {"epochs": 1, "networks": 1, "lr": 1e-9}}
    results = run_study(tiny_study(base=base, constraints={}), output=tmp_path / "runs", debug=True)
    best = load_study(results.directory).best
    assert best.tested_on.classes == 10 and best.tested_on.images == 539 and best.tested_on.largest == 55
    warning = chance_warning(best)
    assert warning and best.trial_key in warning
    facts = json.loads((results.directory / "summary.json").read_text())["winner"]["chance"]
    assert facts["warning"] == warning and not facts["better"] and facts["images"] == 539
    for verb in (["status"], ["pareto"]):
        assert f"warning: {warning}" in CliRunner().invoke(app, [*verb, str(results.directory)]).output
    shown = CliRunner().invoke(app, ["export", str(results.directory), "--to", str(tmp_path / "out")])
    assert shown.exit_code == 0 and f"warning: {warning}" in shown.output
    assert warning in (tmp_path / "out" / "README.md").read_text() and warning in (
        tmp_path / "out" / "run.yaml"
    ).read_text().replace("\n    ", " ")
    assert warning in study_report(results).read_text()
