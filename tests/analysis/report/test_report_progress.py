"""About how long a report still takes: as expected, or as its finished studies have shown of this machine."""

import io

import pytest
from rich.console import Console

from ddcal.analysis.report.progress import ReportProgress
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
    expected = duration(60 * pace * sum(study.minutes for study in studies[4:]))
    assert first_line(studies, took) == f"9 studies: 4 finished before, 5 to run; about {expected} left"
