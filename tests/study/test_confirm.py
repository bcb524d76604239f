"""The leaders of a real study on fresh seeds, and the interval against numbers worked out by hand."""

from dataclasses import replace

import pytest

from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.confirm import compare, confirm, confirmation_study, leading_trials


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
