"""Every picture of studies with few, many, failed and no trials; whether they look well is for eyes to say."""

import logging

import pytest

from ddcal.analysis.figures.study_figures import draw_study
from ddcal.study import run_study
from ddcal.study.run.runner import Hooks

TWO = {"val/ece": "min", "val/accuracy": "max"}
ALL = {"pareto.png", "history.png", "parallel-val_ece.png", "parallel-val_accuracy.png"}
MIXED = ("complete", "infeasible", "pruned", "failed", "out_of_memory", "killed", None)


@pytest.mark.parametrize(
    ("outcomes", "objectives", "names"),
    [
        ((), TWO, {"history.png"}),
        (("failed", None), TWO, {"history.png"}),
        (("infeasible",), TWO, ALL),
        (("complete",), {"val/ece": "min"}, ALL - {"parallel-val_accuracy.png"}),
        (MIXED * 2 + ("complete",) * 4, TWO, ALL | {"importance.png"}),
    ],
    ids=["none", "without a result", "infeasible", "one", "all outcomes"],
)
def test_the_pictures_of_a_study(made_study, outcomes, objectives, names):
    results = made_study("made", outcomes, objectives)
    pictures = draw_study(results)
    assert {path.name for path in pictures} == names and len(pictures) == len(names)
    for path in pictures:
        assert path.parent == results.directory / "figures"
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 3000


@pytest.mark.slow
def test_equal_studies_give_equal_pictures(made_study):
    results = made_study("made", MIXED)
    first = [path.read_bytes() for path in draw_study(results)]
    assert [path.read_bytes() for path in draw_study(results, results.directory / "again")] == first


def test_a_picture_that_cannot_be_drawn_does_not_reach_the_study(tiny_study, tmp_path, caplog):
    def draw(results):
        assert (results.directory / "summary.json").is_file() and len(results.records) == 2
        raise RuntimeError("no ink")

    with caplog.at_level(logging.WARNING):
        results = run_study(tiny_study(), output=tmp_path, debug=True, hooks=Hooks(on_end=draw))
    assert [trial.outcome for trial in results.records] == ["complete"] * 2 and not results.interrupted
    assert "no ink" in caplog.text
