"""Every picture of studies with few, many, failed and no trials; whether they look well is for eyes to say."""

import logging
import subprocess
import sys

import pytest

from ddcal.analysis.figures.study_figures import draw_study
from ddcal.cli.launch import with_pictures
from ddcal.study import run_study
from ddcal.study.run.runner import Hooks, Start

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


PREPARED = """
import sys, threading
from pathlib import Path
from ddcal.analysis.figures.study_figures import prepare_drawing
from ddcal.config import read_study
from ddcal.config.shipped import study_file
study = read_study(study_file(Path("quickstart")), sys.argv[1:])
assert "sklearn" not in sys.modules
prepare_drawing(study)
for thread in threading.enumerate():
    if thread.name == "ddcal-importance":
        thread.join()
print("sklearn.ensemble" in sys.modules)
"""


@pytest.mark.parametrize(("trials", "loaded"), [(3, False), (20, True), (201, False)])
def test_what_importances_need_is_loaded_where_they_are_drawn_at_the_end(trials, loaded):
    call = [sys.executable, "-c", PREPARED, f"search.trials={trials}"]
    said = subprocess.run(call, capture_output=True, text=True, check=True, timeout=600)
    assert said.stdout.strip() == str(loaded)


@pytest.mark.parametrize(("concurrency", "earlier", "when"), [(1, 0, []), (2, 0, [4]), (3, 0, [3, 4]), (3, 2, [1, 2])])
def test_it_is_loaded_while_the_last_trials_run(made_study, monkeypatch, concurrency, earlier, when):
    prepared, finished, told = [], [], []
    monkeypatch.setattr(
        "ddcal.analysis.figures.study_figures.prepare_drawing", lambda study: prepared.append(len(finished) + 1)
    )
    results = made_study("made", ("complete",) * 5)
    search = results.study.search.model_copy(update={"concurrency": concurrency})
    study = results.study.model_copy(update={"search": search})
    hooks = with_pictures(Hooks(on_start=told.append, on_finished=finished.append))
    for where in ("starting", "on Ray"):
        hooks.on_start(Start(study, results.directory, earlier, where))
    for trial in results.records[earlier:]:
        hooks.on_finished(trial)
    assert prepared == when and finished == results.records[earlier:] and len(told) == 2
