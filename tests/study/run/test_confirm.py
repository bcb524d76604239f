"""The leaders of a real study on fresh seeds, and the interval against numbers worked out by hand."""

import json
import statistics
from dataclasses import replace

import pytest
from ledgers import plain_events, write_plain
from typer.testing import CliRunner

from ddcal.analysis.comparison import find_studies
from ddcal.cli import app
from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.status import study_status
from ddcal.study.run.confirm import compare, confirm, confirmation_study, leading_trials
from ddcal.study.run.runner import Hooks


@pytest.fixture
def results(tiny_study, tmp_path):
    return run_study(tiny_study(search={"searcher": "random", "trials": 3}), output=tmp_path, debug=True)


def test_leaders_run_again_on_fresh_seeds(results):
    found = confirm(results, top=2, seeds=2, debug=True)
    leaders = leading_trials(results, 2)
    assert leaders[0] == results.best
    assert {one.trial_key for one in found} == {leader.trial_key for leader in leaders}
    again = load_study(results.directory.parent / "tiny-confirm")
    assert len(again.records) == 4 and all(trial.outcome == "complete" for trial in again.records)
    seeds = {trial.config.seed for trial in again.records}
    assert len(seeds) == 2 and 0 not in seeds, "not the seed of the search"
    for one in found:
        leader = next(leader for leader in leaders if leader.trial_key == one.trial_key)
        assert one.searched == leader.metrics[one.metric] and one.seeds == 2 and one.low <= one.mean <= one.high
    assert load_study(results.directory).summary()["winner"]["confirmed"][0]["metric"] == "val/ece"


def test_the_interval_is_students(results):
    leader = results.best
    again = load_study(results.directory)
    again.records = [
        replace(leader, number=i, metrics=leader.metrics | {"val/ece": value})
        for i, value in enumerate((0.1, 0.2, 0.3))
    ]
    (ece,) = [one for one in compare(results, [leader], again) if one.metric == "val/ece"]
    assert ece.mean == pytest.approx(0.2) and ece.seeds == 3
    assert ece.high - ece.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)  # t(0.975, 2) = 4.302653


@pytest.mark.parametrize(
    ("metric", "values", "low", "high"),
    [
        ("val/ece", (0.0, 0.01, 0.05), 0.0, None),
        ("val/accuracy", (0.9, 0.97, 1.0), None, 1.0),
        ("val/nll", (0.1, 2.0, 4.0), 0.0, None),
        ("val/nll", (1.0, 1.5, 2.0), None, None),
    ],
)
def test_an_interval_leaves_out_what_cannot_be(results, metric, values, low, high):
    """Student's t alone gives an ECE below 0 and an accuracy above 1."""
    results.study = results.study.model_copy(update={"objectives": {metric: "min"}})
    leader = results.best
    again = load_study(results.directory)
    again.records = [replace(leader, number=i, metrics=leader.metrics | {metric: v}) for i, v in enumerate(values)]
    (found,) = [one for one in compare(results, [leader], again) if one.metric == metric]
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    assert found.low == pytest.approx(mean - 4.302653 * spread / 3**0.5 if low is None else low, rel=1e-6)
    assert found.high == pytest.approx(mean + 4.302653 * spread / 3**0.5 if high is None else high, rel=1e-6)


def test_an_old_confirmation_with_impossible_ends_is_shown_without_them(results):
    key = results.best.trial_key
    one = {"trial_key": key, "metric": "val/ece", "searched": 0.1, "mean": 0.1, "low": -0.019, "high": 0.2, "seeds": 2}
    two = one | {"metric": "val/accuracy", "mean": 0.9, "low": 0.8, "high": 1.014}
    (results.directory / "confirmation.json").write_text(
        json.dumps({"seeds": 2, "study": "tiny-confirm", "leaders": [one, two]})
    )
    ece, accuracy = results.summary()["winner"]["confirmed"]
    assert (ece["low"], ece["high"], accuracy["low"], accuracy["high"]) == (0.0, 0.2, 0.8, 1.0)


def test_a_confirmation_is_no_study_of_its_own(results):
    """Neither it nor one of an earlier version, which is told by its description alone, has a winner or is compared."""
    confirm(results, top=1, seeds=2, debug=True)
    root = results.directory.parent
    again = root / "tiny-confirm"
    for _ in range(2):
        confirmation = load_study(again)
        assert confirmation.confirms == "tiny" and confirmation.best is None
        assert confirmation.summary()["winner"] is None and study_status(again).best is None
        assert [study.directory for study in find_studies([root])] == [results.directory]
        with pytest.raises(BadInput, match="the confirmation of tiny: compare that study"):
            find_studies([again])
        with pytest.raises(BadInput, match="the confirmation of tiny: confirm that study"):
            confirm(confirmation, top=1, seeds=2, debug=True)
        shown = CliRunner().invoke(app, ["export", str(again), "--to", str(root / "out")])
        assert shown.exit_code == 1 and "the leaders of tiny on fresh seeds" in shown.output
        first, *others = plain_events(again / LEDGER)
        first["study"].pop("confirms", None)
        write_plain(again / LEDGER, [first, *others])
    assert "confirms" not in first["study"]
    assert results.confirms is None and load_study(results.directory).summary()["winner"]["confirmed"]


def test_a_confirmation_that_was_stopped_goes_on(results):
    """The same command again; asked for anything else, it says that one is there."""
    stopped = Hooks(on_finished=lambda trial: stop())
    with pytest.raises(KeyboardInterrupt):
        confirm(results, top=1, seeds=3, debug=True, hooks=stopped)
    assert load_study(results.directory.parent / "tiny-confirm").interrupted
    found = confirm(results, top=1, seeds=3, debug=True)
    assert {one.seeds for one in found} == {3}
    assert confirm(results, top=1, seeds=3, debug=True) == found, "and a third time nothing runs"
    with pytest.raises(BadInput, match="tiny-confirm exists"):
        confirm(results, top=1, seeds=2, debug=True)


def stop():
    raise KeyboardInterrupt


def test_seeds_are_fresh_also_where_the_study_searched_them(results, tiny_study):
    results.study = tiny_study(space=results.study.model_dump()["space"] | {"seed": {"choice": [0, 1]}})
    study = confirmation_study(results, leading_trials(results, 1), 4)
    assert len(set(study.space["seed"].corners) - {0, 1}) == 4 and study.search.trials == 4


def test_one_seed_is_no_interval(results):
    with pytest.raises(BadInput, match="--seeds 1"):
        confirm(results, top=1, seeds=1, debug=True)


def test_nothing_feasible_is_said(tiny_study, tmp_path):
    study = tiny_study(constraints={"val/accuracy": ">= 1.1"}, search={"trials": 1})
    with pytest.raises(BadInput, match="no trial is feasible"):
        confirm(run_study(study, output=tmp_path, debug=True), top=1, seeds=2, debug=True)
