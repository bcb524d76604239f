"""About how long a report still takes: as expected, or as its finished studies have shown of this machine."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from ddcal.analysis.report.progress import EXPECTED_MINUTES, ReportProgress
from ddcal.analysis.report.studies import paper_studies, studies_folder
from ddcal.pipeline.durations import duration


@pytest.fixture
def studies():
    return paper_studies("cpu", ["digits"], studies_folder())


def first_line(studies, took):
    out = io.StringIO()
    todo = [study for study in studies if study.config.name not in took]
    ReportProgress(Console(file=out, width=200), "").begin(studies, todo, took)
    return out.getvalue().splitlines()[0]


def test_without_a_finished_study_it_is_as_expected(studies):
    expected = duration(60 * sum(study.minutes for study in studies))
    assert first_line(studies, {}) == f"9 studies: 0 finished before, 9 to run; about {expected} left"


@pytest.mark.parametrize("pace", [0.5, 1.0, 3.0])
def test_finished_studies_tell_how_fast_the_machine_is(studies, pace):
    took = {study.config.name: 60 * pace * study.minutes for study in studies[:4]}
    done, left = (sum(study.minutes for study in some) for some in (studies[:4], studies[4:]))
    expected = duration(60 * left * (pace * done + EXPECTED_MINUTES) / (done + EXPECTED_MINUTES))
    assert first_line(studies, took) == f"9 studies: 4 finished before, 5 to run; about {expected} left"


def test_a_study_that_begins_while_another_ends_has_lines_of_its_own(studies, monkeypatch):
    """A clock that the test moves: the second study begins a minute before the first ends."""
    seconds = [0.0]
    monkeypatch.setattr("ddcal.analysis.report.progress.time.monotonic", lambda: seconds[0])
    out, (first, second) = io.StringIO(), studies[:2]
    progress = ReportProgress(Console(file=out, width=200), "")
    progress.begin(studies, [first, second], {})
    hooks = {study.config.name: progress.hooks_of(study) for study in (first, second)}
    one, two = hooks[first.config.name], hooks[second.config.name]
    ended = SimpleNamespace(outcome="complete", trial_key="x", error=None)
    for where in ("starting", "Ray"):
        one.on_start(SimpleNamespace(finished=0, where=where))
    seconds[0] = 100.0
    one.on_finished(ended)
    two.on_start(SimpleNamespace(finished=1, where="Ray"))  # it was begun before
    seconds[0] = 160.0
    two.on_finished(ended)
    one.on_closed(None)
    seconds[0] = 200.0
    two.on_closed(None)
    lines = [line.partition(";")[0] for line in out.getvalue().splitlines()]
    names, trials = [study.config.name for study in (first, second)], [s.config.search.trials for s in (first, second)]
    assert lines == [
        "9 studies: 7 finished before, 2 to run",
        f"study 1 of 2  {names[0]}: {trials[0]} trials",
        f"  1 of {trials[0]} trials",
        f"study 2 of 2  {names[1]}: {trials[1]} trials",
        f"  2 of {trials[1]} trials of {names[1]}",
        f"  {names[0]} done in {duration(160)}",
        f"  {names[1]} done in {duration(100)}",
    ]


def test_the_pace_leaves_out_the_time_of_a_resumed_study_alone(studies, monkeypatch):
    """A fresh study began after 50 s of a resumed one; both end at 100 s: it has taken 50 s."""
    seconds = [0.0]
    monkeypatch.setattr("ddcal.analysis.report.progress.time.monotonic", lambda: seconds[0])
    out, (resumed, fresh, third) = io.StringIO(), studies[:3]
    progress = ReportProgress(Console(file=out, width=200), "")
    progress.begin(studies[:3], [resumed, fresh, third], {})
    first, second = progress.hooks_of(resumed), progress.hooks_of(fresh)
    first.on_start(SimpleNamespace(finished=1, where="Ray"))
    seconds[0] = 50.0
    second.on_start(SimpleNamespace(finished=0, where="Ray"))
    seconds[0] = 100.0
    first.on_closed(None)
    second.on_closed(None)
    progress.hooks_of(third).on_start(SimpleNamespace(finished=0, where="Ray"))
    pace = (50.0 / 60.0 + EXPECTED_MINUTES) / (fresh.minutes + EXPECTED_MINUTES)
    left = duration(60.0 * pace * third.minutes)
    assert out.getvalue().splitlines()[-1].endswith(f"about {left} left")


def test_one_trial_that_has_ended_does_not_multiply_what_is_left(studies, monkeypatch):
    """The first trial of 15 ends as late as four should: others were running beside it, and Ray had to start."""
    seconds = [0.0]
    monkeypatch.setattr("ddcal.analysis.report.progress.time.monotonic", lambda: seconds[0])
    out, first = io.StringIO(), studies[0]
    progress = ReportProgress(Console(file=out, width=200), "")
    progress.begin(studies, studies, {})
    hooks = progress.hooks_of(first)
    hooks.on_start(SimpleNamespace(finished=0, where="Ray"))
    one = 60.0 * first.minutes / first.config.search.trials
    seconds[0] = max(4 * one, 15.0)
    hooks.on_finished(SimpleNamespace(outcome="complete", trial_key="x", error=None))
    expected = 60.0 * sum(study.minutes for study in studies) - one
    pace = (seconds[0] / 60.0 + EXPECTED_MINUTES) / (one / 60.0 + EXPECTED_MINUTES)
    assert 1.0 < pace < 1.5 and out.getvalue().endswith(f"about {duration(expected * pace)} left\n")
