"""``ddcal status`` of studies that run, have ended, were stopped or killed."""

import json
import time
from dataclasses import asdict, replace
from unittest.mock import ANY

import pytest
from ledgers import plain_events, write_plain
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.cli.console import make_console
from ddcal.cli.sheets import Sheet
from ddcal.errors import BadInput
from ddcal.pipeline.heartbeat import heartbeat_file
from ddcal.study import run_study
from ddcal.study.record.events import (
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialAttemptFailed,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.ledger import Ledger
from ddcal.study.record.lock import LOCK, DriverLock, Holder
from ddcal.study.record.status import RunningTrial, Status, best_words, study_status
from ddcal.study.run.runner import Hooks


@pytest.fixture
def study_folder(tmp_path, tiny_study):
    """study_folder([outcome, …], ended=…) -> a study's folder with such a ledger; two seconds a trial."""

    def write(outcomes, ended=None, resumed_after=None, **sections):
        ledger = Ledger(tmp_path)
        study = tiny_study(search={"trials": 6}, **sections).model_dump(mode="json")
        ledger.append(StudyStarted, study=study, environment={}, versions={})
        for number, outcome in enumerate(outcomes):
            if number == resumed_after:
                ledger.append(StudyResumed, study=study, environment={})
            ledger.append(TrialStarted, number=number, trial_key=f"tiny-{number:04d}", values={}, config={})
            if outcome is not None:
                metrics = {"val/ece": 0.1 + number, "val/accuracy": 0.5, "val/nll": 1.0, "test/ece": 0.3}
                record = {"outcome": outcome, "metrics": metrics, "keys": {}, "cache_hits": [], "seconds": 1.0}
                ledger.append(TrialFinished, number=number, **record)
        if ended is not None:
            ledger.append(StudyFinished, seconds=9.0, interrupted=ended == "interrupted")
        ledger.close()
        lines = plain_events(ledger.path)
        for index, event in enumerate(lines):
            event["time"] = 1_000_000 + 1000 * index
        write_plain(ledger.path, lines)
        return tmp_path

    return write


def test_the_counts_of_a_study_that_runs(study_folder):
    folder = study_folder(["complete", "failed", "complete", None])
    lock = DriverLock(folder)
    status = study_status(folder)
    assert status == Status(
        study="tiny",
        state="running",
        trials=6,
        finished=3,
        outcomes={"complete": 2, "failed": 1, "unfinished": 1},
        best="tiny-0000",
        best_metrics={"val/ece": 0.1, "val/accuracy": 0.5, "val/nll": 1.0},
        trials_an_hour=pytest.approx(1800.0),
        seconds_left=pytest.approx(6.0),
        running=[RunningTrial("tiny-0003", None, 0.0, 0.0, ANY, False, 0.0)],
        cpus=1.0,
        gpus=0.0,
        unsent=None,
        ending=None,
        quiet_seconds=ANY,
        next_command=None,
    )
    assert status.running[0].seconds == pytest.approx(time.time() - 1_007, abs=60)
    assert status.quiet_seconds == status.running[0].seconds
    lock.release()


@pytest.mark.parametrize(
    ("ended", "holder", "state"),
    [
        ("finished", None, "finished"),
        ("interrupted", None, "stopped"),
        (None, None, "stopped"),
        (None, {"boot": "another"}, "dead"),
        (None, {"started": 1}, "dead"),
        (None, {}, "running"),
        ("finished", {}, "running"),
        (None, {"host": "elsewhere"}, "running"),
    ],
)
def test_the_state_is_that_of_the_driver(study_folder, ended, holder, state):
    folder = study_folder(["complete"], ended)
    if holder is not None:
        (folder / LOCK).write_text(json.dumps(asdict(replace(Holder.here(), **holder))))
    status = study_status(folder)
    assert status.state == state and status.finished == 1 and status.seconds_left is None
    assert (status.next_command == f"ddcal resume {folder}") == (state in ("stopped", "dead"))


@pytest.mark.parametrize(
    ("objectives", "decides"),
    [({"val/ece": "min", "val/accuracy": "max"}, "val/nll"), ({"val/accuracy": "max"}, "val/accuracy")],
)
def test_the_metric_that_decides_is_marked(study_folder, objectives, decides):
    shown = dict(best_words(study_status(study_folder(["complete"], objectives=objectives))))
    assert [name for name, value in shown.items() if value.endswith(" (decides)")] == [decides]


def test_the_rate_is_that_of_the_last_session(study_folder):
    assert study_status(study_folder(["complete"] * 4, resumed_after=2)).trials_an_hour == pytest.approx(1800.0)
    (study_folder([]) / "ledger.jsonl").unlink()
    assert study_status(study_folder(["complete"] * 3, resumed_after=2)).trials_an_hour is None


def test_a_study_without_a_trial(study_folder):
    status = study_status(study_folder([]))
    assert (status.finished, status.outcomes, status.best, status.trials_an_hour) == (0, {}, None, None)


@pytest.mark.parametrize("as_json", [True, False])
def test_the_verb(study_folder, as_json):
    folder = study_folder(["complete", "infeasible", "complete", None])
    result = CliRunner().invoke(app, ["status", str(folder), *(["--json"] if as_json else [])])
    assert result.exit_code == 0
    if as_json:
        assert json.loads(result.output) == asdict(study_status(folder)) | {"quiet_seconds": ANY}
    else:
        for said in (
            "tiny: stopped; 3 of 6",
            "2 complete",
            "1 infeasible",
            "1 unfinished",
            "tiny-0000",
            "ddcal resume",
        ):
            assert said in result.output


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not a study's folder"):
        study_status(tmp_path)
    assert CliRunner().invoke(app, ["status", str(tmp_path)]).exit_code == 2


def test_a_study_is_watched_while_it_runs(tiny_study, tmp_path):
    seen = []
    hooks = Hooks(on_finished=lambda trial: seen.append(study_status(tmp_path / "tiny")))
    run_study(tiny_study(), output=tmp_path, debug=True, hooks=hooks)
    assert [(status.state, status.finished) for status in seen] == [("running", 1), ("running", 2)]
    assert study_status(tmp_path / "tiny").state == "finished"


KEYS = dict.fromkeys(("distill", "train", "folds", "calibrate", "evaluate"), "0" * 64)


@pytest.fixture
def running(tmp_path, tiny_study):
    """running(*events) -> what is told of trial 0, after these events behind its start."""

    def tell(*events):
        ledger = Ledger(tmp_path)
        ledger.append(StudyStarted, study=tiny_study().model_dump(mode="json"), environment={}, versions={})
        ledger.append(TrialStarted, number=0, trial_key="tiny-0000", values={}, config={}, keys=KEYS, attempt=2)
        for kind, values in events:
            ledger.append(kind, **values)
        ledger.close()
        lock = DriverLock(tmp_path)
        found = study_status(tmp_path).running
        lock.release()
        return [(one.stage, round(one.stage_progress, 3), one.progress, one.waiting) for one in found]

    return tell


def beat(folder, attempt=2, **values):
    (folder / "logs").mkdir()
    path = heartbeat_file(folder / "logs" / "tiny-0000.log")
    path.write_text(json.dumps({"attempt": attempt, "stage": "train", "fraction": 0.5, "progress": 0.7} | values))


@pytest.mark.parametrize(
    ("progress", "told"),
    [(0.0, ("distill", 0.0)), (0.25, ("distill", 0.5)), (0.5, ("train", 0.0)), (0.9, ("calibrate", 0.0))],
)
def test_the_stage_is_told_by_the_last_point(running, progress, told):
    points = [{"progress": progress, "stage": "whatever"}]
    assert running((TrialPoints, {"number": 0, "points": points})) == [(*told, progress, False)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ("train", 0.5, 0.7, False)),
        ({"waiting": True}, ("train", 0.5, 0.7, True)),
        ({"fraction": 1.0, "progress": 0.9}, ("folds", 0.0, 0.9, False)),
        ({"attempt": 1}, (None, 0.0, 0.0, False)),
        ({"fraction": 7.0}, (None, 0.0, 0.0, False)),
        ({"stage": "x" * 2000}, (None, 0.0, 0.0, False)),
        ({"stage": "another"}, ("another", 0.5, 0.7, False)),
    ],
    ids=["now", "waits", "next stage", "of an earlier attempt", "nonsense", "too long", "unknown"],
)
def test_a_heartbeat_knows_more_than_the_ledger(running, tmp_path, values, told):
    beat(tmp_path, **values)
    assert running() == [told]


def test_what_has_come_back_does_not_run(running):
    grown = {"attempt": 2, "outcome": "out_of_memory", "error": None, "seconds": 1.0, "gpu": 0.5, "next_gpu": 1.0}
    assert running((TrialAttemptFailed, {"number": 0, **grown})) == []


def test_workers_say_what_they_are_at_and_stop_saying_it(tiny_study, tmp_path):
    stages, files, logs = set(), set(), tmp_path / "tiny" / "logs"

    def look(advance):
        stages.update(one.stage for one in study_status(tmp_path / "tiny").running)
        files.update(path.name for path in logs.glob(".*"))

    run_study(tiny_study(search={"trials": 1}), output=tmp_path, debug=True, hooks=Hooks(on_advance=look))
    assert stages and stages <= KEYS.keys()
    assert files == {".tiny-0000.now"} and not list(logs.glob(".*"))


def test_what_a_ledger_says_is_nothing_that_a_terminal_obeys(study_folder, capsys):
    folder = study_folder(["complete"], ended="whole")
    events = plain_events(folder / "ledger.jsonl")
    write_plain(folder / "ledger.jsonl", [*events[:-1], events[-1] | {"ending": "over\x1b[2J\x9b1m"}])
    output = CliRunner().invoke(app, ["status", str(folder)]).output
    assert "ended: over\\x1b[2J\\x9b1m\n" in output and "\x1b" not in output
    make_console().print(Sheet("title\x1b]0;x", ("a\x1b[2J", "b"), [["\x9b1m", "two\nlines"]]))
    said = capsys.readouterr().out
    assert "title\\x1b]0;x" in said and "a\\x1" in said and "\\x9b" in said
    assert said.replace("\n", "").isprintable() and len(said.splitlines()) == 7
