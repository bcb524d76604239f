import csv
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.config import StudyConfig
from ddcal.errors import BadInput
from ddcal.study.record.events import StudyFinished, StudyStarted, TrialFinished, TrialStarted
from ddcal.study.record.ledger import LEDGER, Ledger
from ddcal.study.record.results import Trial, load_study, pareto_front

OBJECTIVES = {"val/ece": "min", "val/accuracy": "max", "val/nll": "min"}
KEYS = {stage: stage[0] * 64 for stage in ("distill", "train", "calibrate", "evaluate")}
GPUS = {"distill": 0.5, "train": 0.25}  # of stages that were computed before this was noted there is none
SECONDS = {"distill": 2.0, "train": 1.0, "calibrate": 0.25, "evaluate": 0.25}


def metrics(ece, accuracy, nll):
    return {"val/ece": ece, "val/accuracy": accuracy, "val/nll": nll}


def by_definition(study, trials):
    """No other feasible trial is at least as good everywhere and better somewhere."""

    def better(a, b, name, way):
        x, y = a.metrics[name], b.metrics[name]
        return x < y if way == "min" else x > y

    ways = study.objectives.items()
    feasible = [trial for trial in trials if trial.outcome == "complete"]
    return [
        trial
        for trial in feasible
        if not any(
            any(better(other, trial, *way) for way in ways) and not any(better(trial, other, *way) for way in ways)
            for other in feasible
        )
    ]


few = st.sampled_from([0.0, 0.25, 0.5, 1.0])
outcomes = st.sampled_from(["complete", "complete", "complete", "infeasible", "pruned", "failed", "killed", None])


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(few, few, few, outcomes), max_size=12),
    names=st.sets(st.sampled_from(sorted(OBJECTIVES)), min_size=1),
)
def test_the_front_is_what_its_definition_says(rows, names):
    study = StudyConfig(name="s", objectives={name: OBJECTIVES[name] for name in sorted(names)})
    trials = [Trial(i, f"s-{i}", {}, {}, row[3], metrics(*row[:3])) for i, row in enumerate(rows)]
    assert pareto_front(study, trials) == by_definition(study, trials)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_missing_metric_is_the_worst_there_is(name):
    study = StudyConfig(name="s", objectives={name: OBJECTIVES[name]})
    values = metrics(0.5, 0.5, 0.5)
    trials = [Trial(0, "a", {}, {}, "complete", {**values, name: None}), Trial(1, "b", {}, {}, "complete", values)]
    assert [trial.number for trial in pareto_front(study, trials)] == [1]


@pytest.fixture
def study_folder(tmp_path, tiny_study):
    """study_folder([(outcome, metrics), …]) -> a study's folder with such a ledger."""

    def write(rows, cached=()):
        ledger = Ledger(tmp_path)
        study = tiny_study(objectives={"val/ece": "min", "val/accuracy": "max"})
        ledger.append(StudyStarted, study=study.model_dump(mode="json"), environment={"device": "cpu"}, versions={})
        for number, (outcome, values) in enumerate(rows):
            named = {"number": number, "trial_key": f"tiny-{number:04d}", "log": f"logs/{number}.log"}
            searched = {"calibrate.mask.ratio": number / 10}
            ledger.append(TrialStarted, **named, values=searched, config={"seed": 0})
            if outcome is not None:
                record = {"keys": KEYS, "cache_hits": cached, "stage_seconds": SECONDS, "seconds": 3.5}
                record |= {"stage_gpus": GPUS, "waited_seconds": 0.5} if number else {}  # 0 is of an earlier version
                ended = {"outcome": outcome, "metrics": values, "error": None, "fingerprint": "f"}
                ledger.append(TrialFinished, number=number, **record, **ended)
        ledger.append(StudyFinished, seconds=9.0, interrupted=False)
        ledger.close()
        return tmp_path

    return write


ROWS = [
    ("complete", metrics(0.20, 0.9, 0.7)),
    ("complete", metrics(0.10, 0.8, 0.4)),  # the winner
    ("complete", metrics(0.30, 0.7, 0.2)),  # dominated
    ("infeasible", metrics(0.00, 0.99, 0.1)),
    ("pruned", metrics(0.00, 1.0, 0.0)),
    ("failed", {}),
    (None, {}),
]


def test_the_winner_has_the_lowest_nll_of_the_feasible_front(study_folder):
    results = load_study(study_folder(ROWS))
    assert [trial.number for trial in results.pareto] == [0, 1]
    assert results.best.number == 1
    assert [trial.outcome for trial in results.records] == [outcome for outcome, _ in ROWS]


def test_a_study_without_a_feasible_trial_has_no_winner(study_folder):
    results = load_study(study_folder(ROWS[3:]))
    assert results.best is None and results.pareto == []
    assert results.summary()["winner"] is None


def test_the_table_has_one_row_a_trial_and_the_same_columns_in_each(study_folder):
    folder = study_folder(ROWS, cached=["distill", "train"])
    results = load_study(folder)
    results.write()
    with (folder / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["outcome"] for row in rows] == [
        "complete", "complete", "complete", "infeasible", "pruned", "failed", "unfinished",
    ]  # fmt: skip
    stages = ("distill", "train", "calibrate", "evaluate")
    assert list(rows[0]) == [
        "number", "trial_key", "outcome", "duplicate_of", "calibrate.mask.ratio", "val/accuracy", "val/ece", "val/nll",
        *(f"key/{stage}" for stage in stages), "cache_hits", "waited_seconds", "saved_seconds", "saved_gpu_seconds",
        *(f"seconds/{stage}" for stage in stages), "attempt", "progress", "gpu", "seconds", "node", "error", "log",
    ]  # fmt: skip
    assert rows[1]["key/train"] == KEYS["train"] and rows[1]["cache_hits"] == "distill train"
    assert [float(rows[1][f"{name}_seconds"]) for name in ("saved", "saved_gpu", "waited")] == [3.0, 1.25, 0.5]
    assert [float(rows[0][f"{name}_seconds"]) for name in ("saved", "saved_gpu", "waited")] == [3.0, 0.0, 0.0]
    assert rows[6]["seconds"] == ""
    assert list(results.trials.columns) == list(rows[0]) and len(results.trials) == len(ROWS)
    assert results.trials["val/ece"].dropna().tolist()[:2] == [0.20, 0.10]
    with (folder / "pareto.csv").open(newline="") as stream:
        assert [row["number"] for row in csv.DictReader(stream)] == ["0", "1"]


def test_the_summary_counts_and_names_the_winner(study_folder):
    folder = study_folder(ROWS, cached=["distill", "train"])
    load_study(folder).write()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["outcomes"] == {
        "complete": 3, "infeasible": 1, "pruned": 1, "failed": 1, "unfinished": 1,
    }  # fmt: skip
    assert summary["winner"]["trial_key"] == "tiny-0001" and summary["winner"]["confirmed"] is False
    assert summary["pareto"] == [0, 1] and summary["seconds"] == 9.0
    assert summary["cache"] == {
        "hits": 12, "waited_seconds": 2.5, "saved_seconds": 18.0, "saved_gpu_seconds": 6.25, "computed_seconds": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize("identifier", ["1", "tiny-0001"])
def test_a_trial_is_found_by_number_and_key(study_folder, identifier):
    assert load_study(study_folder(ROWS)).trial(identifier).number == 1


@pytest.mark.parametrize("identifier", ["7", "-1", "tiny", "1.0", ""])
def test_an_unknown_trial_is_named(study_folder, identifier):
    with pytest.raises(BadInput, match=f"no trial '{identifier}'; it has 0 to 6"):
        load_study(study_folder(ROWS)).trial(identifier)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda folder: None,
        lambda folder: folder.mkdir(),
        lambda folder: folder.write_text(""),
        lambda folder: (folder.mkdir(), (folder / LEDGER).write_text("")),
        lambda folder: (folder.mkdir(), (folder / LEDGER).write_text('{"event": "study_started"')),
    ],
    ids=["absent", "empty", "a file", "empty ledger", "torn ledger"],
)
def test_a_folder_that_is_no_study_is_refused_by_name(tmp_path, prepare):
    prepare(tmp_path / "other")
    with pytest.raises(BadInput, match="other"):
        load_study(tmp_path / "other")


@pytest.mark.parametrize("verb", ["status", "resume", "verify"])
def test_a_study_on_s3_is_to_be_fetched(verb):
    result = CliRunner().invoke(app, [verb, "s3://bucket/runs/my?scheme=http"])
    assert result.exit_code == 2
    assert "`ddcal fetch 's3://bucket/runs/my?scheme=http'`" in " ".join(result.output.split())


def test_numbers_that_are_none_come_back_as_missing(study_folder):
    results = load_study(
        study_folder([("complete", metrics(math.nan, 0.5, 0.5)), ("complete", metrics(0.1, 0.5, 0.5))])
    )
    assert results.records[0].metrics["val/ece"] is None
    assert [trial.number for trial in results.pareto] == [1]
