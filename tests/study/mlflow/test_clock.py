"""How long a study and its trials were worked on, by events at known times; and that MLflow's runs last as long."""

import pytest

from ddcal.study.mlflow.clock import STUDY, Clock, clock_at
from ddcal.study.mlflow.mirror import Mirror
from ddcal.study.record.events import (
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialAttemptFailed,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.ledger import Ledger, read_ledger

SECOND, HOUR = 1000, 3_600_000


@pytest.fixture
def ledger(tmp_path, tiny_study):
    """add(event, seconds, ...) appends an event at so many seconds; the study begins at 100."""
    (tmp_path / "study.yaml").write_text("name: tiny\n")
    writer, study = Ledger(tmp_path), tiny_study().model_dump(mode="json")
    started = {"trial_key": "tiny-0000", "values": {}, "config": {"data": {"name": "digits"}}}
    ended = {"outcome": "complete", "metrics": {}, "fingerprint": None}
    defaults = {
        StudyStarted: {"study": study, "study_id": "i" * 32},
        StudyResumed: {"study": study},
        StudyFinished: {"seconds": 1.0, "interrupted": False},
        TrialStarted: started,
        TrialPoints: {"points": [{"progress": 0.5, "stage": "train"}]},
        TrialAttemptFailed: {"attempt": 1, "outcome": "out_of_memory", "error": None, "seconds": 1.0}
        | {"gpu": 0.5, "next_gpu": 1.0},
        TrialFinished: ended,
    }

    def add(kind, seconds, **values):
        writer.append(kind, time=seconds * SECOND, **defaults[kind] | values)

    add(StudyStarted, 100)
    yield add
    writer.close()


def stopped_and_killed(add):
    """A trial of three attempts: stopped after 10 s, killed with its driver after at least 5 s, and done in 7 s."""
    add(TrialStarted, 110, number=0)
    add(StudyFinished, 120, interrupted=True)
    add(StudyResumed, 120 + 3600)
    add(TrialStarted, 130 + 3600, number=0, attempt=2)
    add(TrialPoints, 135 + 3600, number=0)
    add(StudyResumed, 2 * 3600)
    add(TrialStarted, 2 * 3600 + 1, number=0, attempt=3)
    add(TrialFinished, 2 * 3600 + 8, number=0)
    add(StudyFinished, 2 * 3600 + 10)


def test_pauses_are_no_work(ledger, tmp_path):
    stopped_and_killed(ledger)
    clock, spent = Clock(), {}
    for event in read_ledger(tmp_path):
        if isinstance(event, TrialFinished | StudyFinished):
            who = STUDY if isinstance(event, StudyFinished) else "0"
            spent[who] = clock.worked_until(event.time, who)
        clock = clock.after(event)
    assert spent == {"0": (10 + 5 + 7) * SECOND, STUDY: (20 + 15 + 10) * SECOND}
    assert clock.worked_until(9 * HOUR, STUDY) == 45 * SECOND, "and after its end it stands"


def test_an_attempt_that_failed_counts_and_the_wait_after_it_does_not(ledger, tmp_path):
    ledger(TrialStarted, 110, number=3)
    ledger(TrialAttemptFailed, 114, number=3)
    ledger(TrialStarted, 150, number=3, attempt=2)
    size = (tmp_path / "ledger.jsonl").stat().st_size
    assert clock_at(tmp_path, size).worked_until(156 * SECOND, "3") == 10 * SECOND
    assert clock_at(tmp_path, 0) == Clock()


@pytest.mark.parametrize("every", [True, False], ids=["a new mirror an event", "one mirror"])
def test_runs_in_mlflow_last_as_long_as_they_were_worked_on(ledger, tmp_path, every):
    import mlflow

    stopped_and_killed(ledger)
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def mirror():
        return Mirror(tmp_path, uri, "tiny", (tmp_path / "artifacts").as_uri())

    one = mirror()
    while one.advance():
        one = mirror() if every else one
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    lasted = {run.info.run_name: (run.info.end_time - run.info.start_time) / SECOND for run in runs}
    assert lasted == {"tiny": 45, "tiny-0000": 22}
    (trial,) = [run for run in runs if run.info.run_name == "tiny-0000"]
    assert trial.data.tags["ddcal.worked_seconds"] == "22.000" and trial.info.status == "FINISHED"
