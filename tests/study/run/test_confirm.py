"""The leaders of a real study on fresh seeds, and the interval against numbers worked out by hand."""

import json
import shutil
import statistics
from dataclasses import replace

import pytest
from ledgers import plain_events, write_plain
from rich.console import Console
from typer.testing import CliRunner

from ddcal.analysis.comparison import compare_studies, find_studies
from ddcal.analysis.report.study_page import study_report
from ddcal.cli import app
from ddcal.cli.console import print_summary
from ddcal.errors import BadInput
from ddcal.study import load_study, run_study
from ddcal.study.export.export import export_trial
from ddcal.study.record.confirmation import (
    optimism,
    read_confirmation,
    seeds_enough,
    standing,
    verdict,
    write_confirmation,
)
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.status import study_status
from ddcal.study.run.confirm import compare, confirm, confirmation_study, leading_trials
from ddcal.study.run.runner import Hooks

NAMES = ("val/nll", "val/ece", "val/accuracy")


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
    again = [
        replace(leader, number=i, metrics=leader.metrics | {"val/ece": value})
        for i, value in enumerate((0.1, 0.2, 0.3))
    ]
    (ece,) = [one for one in compare(results, [leader], again) if one.metric == "val/ece"]
    assert ece.mean == pytest.approx(0.2) and ece.seeds == 3
    assert ece.high - ece.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)  # t(0.975, 2) = 4.302653


@pytest.mark.slow
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
    again = [replace(leader, number=i, metrics=leader.metrics | {metric: v}) for i, v in enumerate(values)]
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


def record(metric="val/ece", searched=0.036, mean=0.051, low=0.04, high=0.06, seeds=5, **more):
    return {"trial_key": "a", "metric": metric, "searched": searched, "mean": mean} | {
        "low": low, "high": high, "seeds": seeds, **more
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (record(), "optimistic by 0.0150"),
        (record(searched=0.066), "pessimistic by 0.0150"),
        (record("val/accuracy", 0.95, 0.9, 0.85, 0.94), "optimistic by 0.0500"),
        (record("val/accuracy", 0.80, 0.9, 0.85, 0.94), "pessimistic by 0.1000"),
        (record(searched=0.045, std=0.01), "5 seeds cannot tell them apart, about 14 would"),
        (record(searched=0.051, std=0.01), "5 seeds cannot tell them apart, nor would 1000"),
    ],
)
def test_the_verdict_on_the_number_of_the_search(one, said):
    assert verdict(one) == said


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (record(seeds=4, std=0.001), "looks optimistic by 0.0150; 4 seeds settle nothing, about 5 would"),
        (record(searched=0.066, seeds=2, std=0.005), "looks pessimistic by 0.0150; 2 seeds settle nothing"),
        (record(seeds=3, std=0.01, searched=0.045), "looks optimistic by 0.0060; 3 seeds settle nothing, about 14"),
        (record(seeds=3, std=0.01, searched=0.051), "looks right; 3 seeds settle nothing, nor would 1000"),
    ],
)
def test_below_five_seeds_the_verdict_settles_nothing(one, said):
    """method.md, Variance: also where the search's number lies outside the interval."""
    assert verdict(one).startswith(said)


def test_seeds_are_enough_where_the_interval_ends_before_the_number_of_the_search():
    """Student's t of tables: 2.160 · 0.01 / √14 = 0.00577 < 0.006 < 2.179 · 0.01 / √13 = 0.00604."""
    assert seeds_enough(record(searched=0.045, std=0.01)) == 14
    assert seeds_enough(record(searched=0.05, std=0.0)) == 5, "method.md, Variance: nothing is marked below 5"
    assert optimism(record(searched=0.045)) == pytest.approx(0.006)


def test_the_spread_of_an_old_confirmation_is_that_of_its_interval():
    """t(0.975, 4) = 2.776445; the lower end was cut at 0."""
    half = 2.776445 * 0.05 / 5**0.5
    old = record(mean=0.051, low=0.0, high=0.051 + half, searched=0.01)
    assert seeds_enough(old) == seeds_enough(old | {"std": 0.05})


def test_whether_the_winner_stays_first():
    winner, other = record("val/nll", mean=0.30), record("val/nll", mean=0.25) | {"trial_key": "b"}
    assert standing([winner, other], "a", "val/nll") == "by mean val/nll b comes first of 2: 0.2500, the winner 0.3000"
    assert standing([winner, other], "b", "val/nll") == "the winner stays first of 2 by mean val/nll"
    assert standing([winner], "a", "val/nll") is None and standing([winner, other], "c", "val/nll") is None
    few = standing([winner, other | {"seeds": 3}], "b", "val/nll")
    assert few == "the winner stays first of 2 by mean val/nll; 3 seeds settle nothing"


@pytest.mark.parametrize("seeds", [2, 4, 5])
def test_what_is_said_of_the_winner_after_so_many_seeds(results, seeds):
    """The page, the terminal, ``summary.json``, `compare` and an export have the same words; below 5 nothing counts."""
    one = record(searched=0.036, std=0.005, seeds=seeds) | {"trial_key": results.best.trial_key}
    leaders = [one | {"verdict": "optimistic by 0.0150"}]  # an earlier version said so from 2 seeds on
    write_confirmation(results.directory, seeds, "tiny-confirm", leaders)
    marked, found = seeds >= 5, results.confirmed(results.best)
    said = "optimistic by 0.0150"
    said = said if marked else f"looks {said}; {seeds} seeds settle nothing, about 5 would"
    assert results.summary()["winner"]["confirmed"][0]["verdict"] == found[0]["verdict"] == said
    words = "confirmed on fresh seeds" if marked else f"{seeds} fresh seeds settle nothing"
    page = study_report(results).read_text()
    assert f"{results.best.trial_key}; {words}" in page and f">{said}<" in page
    console = Console(width=200, record=True)
    print_summary(results, console)
    assert f"; {words})" in console.export_text()
    (facts,) = compare_studies([results]).facts.values()
    assert facts["confirmed"] == ("yes" if marked else "too few seeds") and facts["fresh seeds"] == seeds
    folder = export_trial(results, results.best, results.directory.parent / "out")
    assert f"; {words}, see run.yaml)" in (folder / "README.md").read_text()


def test_the_verdicts_are_printed(results):
    confirm(results, top=2, seeds=2, debug=True)
    shown = CliRunner().invoke(app, ["confirm", str(results.directory), "--top", "2", "--seeds", "2", "--debug"])
    assert shown.exit_code == 0, shown.output
    verdicts = [one["verdict"] for one in read_confirmation(results.directory)]
    assert verdicts == list(map(verdict, read_confirmation(results.directory)))
    for one in verdicts:
        assert shown.output.count(one) == verdicts.count(one), one  # each is said once


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
        assert [study.directory for study in find_studies([again, results.directory])] == [results.directory]
        with pytest.raises(BadInput, match="the confirmation of tiny: confirm that study"):
            confirm(confirmation, top=1, seeds=2, debug=True)
        shown = CliRunner().invoke(app, ["export", str(again), "--to", str(root / "out")])
        assert shown.exit_code == 1 and "the leaders of tiny on fresh seeds" in shown.output
        first, *others = plain_events(again / LEDGER)
        first["study"].pop("confirms", None)
        write_plain(again / LEDGER, [first, *others])
    assert "confirms" not in first["study"]
    (facts,) = compare_studies(find_studies([root])).facts.values()
    assert facts["winner"] == results.best.trial_key
    assert (facts["confirmed"], facts["fresh seeds"]) == ("too few seeds", 2)
    (ece,) = [one for one in read_confirmation(results.directory) if one["metric"] == "val/ece"]
    shown = [facts[f"fresh seeds val/ece{end}"] for end in ("", " low", " high")]
    assert shown == [ece["mean"], ece["low"], ece["high"]]
    shutil.move(again, root / "elsewhere")
    shutil.move(results.directory, root / "away")
    with pytest.raises(BadInput, match="the confirmation of tiny, which is not beside it"):
        find_studies([root / "elsewhere"])
    shutil.move(root / "away", results.directory)
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


def test_ctrl_c_says_how_the_confirmation_goes_on(results, monkeypatch):
    stopped = property(lambda self: Hooks(on_start=self.on_start, on_finished=lambda trial: stop()))
    monkeypatch.setattr("ddcal.cli.progress.StudyProgress.hooks", stopped)
    command = ["confirm", str(results.directory), "--top", "1", "--seeds", "2", "--debug"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 130 and f"go on with:\n  ddcal {' '.join(command)}\n" in shown.output, shown.output


@pytest.mark.slow
def test_more_leaders_or_seeds_are_added_to_a_confirmation(results):
    """Beside the first, from the store where it has them; a leader's interval is over all its seeds."""
    root = results.directory.parent
    first = confirm(results, top=1, seeds=2, debug=True)
    (winner,) = {one.trial_key for one in first}
    more = confirm(results, top=1, seeds=4, debug=True)
    again, other = load_study(root / "tiny-confirm"), load_study(root / "tiny-confirm-2")
    assert {one.seeds for one in more} == {4} and len(again.records) == 2 and len(other.records) == 4
    done = [trial.values for trial in again.records]
    hits = [(trial.values in done, "evaluate" in trial.cache_hits) for trial in other.records]
    assert sorted(hits) == [(False, False)] * 2 + [(True, True)] * 2, "only what is new was computed"
    both = confirm(results, top=2, seeds=2, debug=True)
    assert {(one.trial_key == winner, one.seeds) for one in both} == {(True, 4), (False, 2)}
    assert confirm(results, top=1, seeds=3, debug=True) == more, "three seeds of four: nothing runs"
    folders = sorted(path.name for path in root.glob("tiny-confirm*"))
    assert folders == ["tiny-confirm", "tiny-confirm-2", "tiny-confirm-3"]
    assert len({one["trial_key"] for one in read_confirmation(results.directory)}) == 2, "what was measured stays"
    assert [one.directory for one in find_studies([root])] == [results.directory]
    shown = CliRunner().invoke(app, ["confirm", str(results.directory), "--top", "1", "--seeds", "3", "--debug"])
    assert shown.exit_code == 0 and "there already: tiny-confirm-2, 1 leader of tiny on 4 fresh seeds." in shown.output
    assert f"{winner} (winner) on 4 fresh seeds" in shown.output


@pytest.mark.slow
def test_a_confirmation_of_another_study_of_that_name_is_none_of_it(results, tiny_study):
    root = results.directory.parent
    confirm(results, top=1, seeds=2, debug=True)
    shutil.move(results.directory, root / "away")
    others = tiny_study(base={"train": {"epochs": 2}}, search={"searcher": "random", "trials": 1})
    found = confirm(run_study(others, output=root, debug=True), top=1, seeds=3, debug=True)
    assert {one.seeds for one in found} == {3} and len(load_study(root / "tiny-confirm-2").records) == 3


def test_leaders_of_which_fresh_trials_failed_are_named(results):
    """Exit code 1 where nothing was measured; fresh trials that failed are not run again."""
    confirm(results, top=2, seeds=2, debug=True)
    first, second = leading_trials(results, 2)
    fresh = results.directory.parent / "tiny-confirm" / LEDGER
    command = ["confirm", str(results.directory), "--top", "2", "--seeds", "2", "--debug"]
    for failing, leaders, code in ((1, [second], 0), (4, [first, second], 1)):
        events = plain_events(fresh)
        for event in [one for one in events if one["event"] == "trial_finished"][-failing:]:
            event |= {"outcome": "out_of_memory", "metrics": {}, "error": "out of memory"}
        write_plain(fresh, events)
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == code, shown.output
        missing = [f"{leader.trial_key}: fewer than 2 of its seeds finished" for leader in leaders]
        assert [line for line in shown.output.splitlines() if "fewer than" in line] == missing
        measured = [f"{first.trial_key} (winner) on 2 fresh seeds" in shown.output, "intervals" in shown.output]
        assert measured == [not code] * 2
    shown = CliRunner().invoke(app, [*command, "--json"])
    assert shown.exit_code == 1 and json.loads(shown.stdout) == []


def stop():
    raise KeyboardInterrupt


def test_seeds_are_fresh_also_where_the_study_searched_them(results, tiny_study):
    results.study = tiny_study(space=results.study.model_dump()["space"] | {"seed": {"choice": [0, 1]}})
    study = confirmation_study(results, leading_trials(results, 1), 4)
    assert len(set(study.space["seed"].corners) - {0, 1}) == 4 and study.search.trials == 4


def test_the_winner_leads_also_where_another_of_its_seeds_has_a_lower_nll(results):
    metrics = [(0.30, 0.5, 0.40), (0.35, 0.1, 0.42), (0.28, 0.6, 0.30)]
    values = [{"calibrate.mask.ratio": ratio, "seed": seed} for ratio, seed in ((0.1, 0), (0.1, 1), (0.5, 0))]
    results.records = [
        replace(trial, values=value, metrics=trial.metrics | dict(zip(NAMES, found, strict=True)))
        for trial, value, found in zip(results.records, values, metrics, strict=True)
    ]
    _, winner, other = results.records
    assert results.best == winner
    assert leading_trials(results, 1) == [winner] and leading_trials(results, 3) == [winner, other]


def test_a_name_that_leaves_no_room_for_that_of_a_confirmation_is_said(tiny_study, tmp_path):
    one = {"searcher": "random", "trials": 1}
    long = run_study(tiny_study(name="n" * 57, search=one), output=tmp_path, debug=True)
    shown = CliRunner().invoke(app, ["confirm", str(long.directory), "--seeds", "2", "--debug"])
    assert (
        shown.exit_code == 2
        and "a name has at most 64 characters: run it again under one of at most 56" in shown.output
    )
    shorter = run_study(tiny_study(name="n" * 55, search=one), output=tmp_path, debug=True)
    assert confirm(shorter, top=1, seeds=2, debug=True)
    with pytest.raises(BadInput, match=r"would be called n+-confirm-2, .* under one of at most 54"):
        confirm(shorter, top=1, seeds=3, debug=True)


def test_one_seed_is_no_interval(results):
    with pytest.raises(BadInput, match="--seeds 1"):
        confirm(results, top=1, seeds=1, debug=True)


def test_nothing_feasible_is_said(tiny_study, tmp_path):
    study = tiny_study(constraints={"val/accuracy": ">= 1.1"}, search={"trials": 1})
    with pytest.raises(BadInput, match="no trial is feasible"):
        confirm(run_study(study, output=tmp_path, debug=True), top=1, seeds=2, debug=True)
