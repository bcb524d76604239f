"""Studies whose Optuna journal is lost, cut, damaged or another's, by the driver by hand: no trial runs."""

import json
import random
import shutil

import pytest
from ledgers import plain_events, write_plain

from ddcal.pipeline import Environment
from ddcal.study import load_study
from ddcal.study.mlflow.follower import Tracking
from ddcal.study.record.ledger import LEDGER, DamagedLedger
from ddcal.study.record.lock import DriverLock
from ddcal.study.run.driver import StudyDriver
from ddcal.study.run.takeover import journal_problem
from ddcal.study.search.search import JOURNAL

MIXED = {
    "calibrate.mask.ratio": {"uniform": [0.0, 0.5], "when": {"distill.backbone": ["dc"]}},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.ipc": {"int": [1, 5]},
    "calibrate.t_min": {"loguniform": [0.1, 1.0]},
}
NUMBERS = {"distill.ipc": {"int": [1, 5]}, "calibrate.t_min": {"loguniform": [0.1, 1.0]}}
FINITE = {
    "calibrate.mask.ratio": {"choice": [0.0, 0.1], "when": {"distill.backbone": ["dc"]}},
    "distill.backbone": {"choice": ["real", "dc"]},
    "distill.ipc": {"int": [1, 5]},
}
SPACES = {"gp": NUMBERS, "cma-es": NUMBERS, "grid": FINITE}
SEARCHERS = ("tpe", "random", "nsga2", "gp", "cma-es", "grid")
QUICK = [searcher for searcher in SEARCHERS if searcher != "gp"]
TRIALS, STARTUP = {"gp": 6}, 3


def quality(number, values):
    x, ipc, t = values.get("calibrate.mask.ratio", 0.7), values["distill.ipc"], values.get("calibrate.t_min", 0.5)
    return {"val/ece": abs(x - 0.2) + t / ipc + number / 1e3, "val/accuracy": ipc / 5 - x / 9, "val/nll": x + t}


class Study:
    """A study in a folder of its own, with drivers one after another."""

    def __init__(self, make, folder, searcher, trials):
        many = searcher in ("tpe", "random", "nsga2", "grid")
        self.folder, self.trials = folder / "tiny", trials
        search = {
            "searcher": searcher,
            "startup": STARTUP,
            "concurrency": 4,
            "enqueue": [{"distill.ipc": 2}, {"distill.ipc": 5}],
        }
        self.sections = {
            "space": SPACES.get(searcher, MIXED),
            "objectives": {"val/ece": "min", "val/accuracy": "max"} if many else {"val/ece": "min"},
            "constraints": {"val/accuracy": ">= 0.3"} if many else {},
        }
        self.make = lambda count: make(**self.sections, search={**search, "trials": count})
        self.driver = None

    def open(self, trials=None):
        """Begin, or go on after the former driver was killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = load_study(self.folder) if (self.folder / LEDGER).exists() else None
        study = self.make(trials or self.trials)
        lock = DriverLock(self.folder)
        self.driver = StudyDriver(study, self.folder, Environment("cpu", 1), Tracking(None), lock, earlier=earlier)
        return self

    def kill(self):
        self.driver.ledger.close()
        self.driver._lock.release()
        return self

    def run(self, count=100):
        """Run so many trials, to the study's end at most."""
        while count and not self.driver.exhausted:
            assignment = self.driver.next_assignment()
            self.end(assignment)
            count -= 1
        return self

    def end(self, assignment):
        trial = self.driver._running[assignment.number]
        outcome = {4: "failed", 5: "pruned"}.get(assignment.number, "complete")
        metrics = quality(assignment.number, trial.values) if outcome == "complete" else {}
        record = {"outcome": outcome, "metrics": metrics, "keys": trial.keys, "cache_hits": [], "stage_seconds": {}}
        record |= {"seconds": 1.0, "error": None, "fingerprint": None}
        self.driver.on_result(assignment.number, {"points": [], "records": [record]})

    @property
    def journal(self):
        return self.folder / JOURNAL

    @property
    def history(self):
        """Number, values, outcome and metrics of every trial."""
        return [(t.number, t.values, t.outcome, t.metrics) for t in load_study(self.folder).records]

    def copy(self, root):
        """A copy that goes on by itself."""
        other = Study.__new__(Study)
        other.__dict__.update(self.__dict__, folder=root / "tiny")
        shutil.copytree(self.folder, other.folder)
        return other

    def set_aside(self):
        return sorted(path.name for path in self.folder.glob(f"{JOURNAL}.*"))


@pytest.fixture
def study_of(tiny_study, tmp_path):
    """study_of(searcher, name) -> a Study, not opened."""
    return lambda searcher, name="a", trials=None: Study(
        tiny_study, tmp_path / name, searcher, trials or TRIALS.get(searcher, 9)
    )


@pytest.fixture(scope="module")
def undisturbed(tiny_study, tmp_path_factory):
    """searcher -> the history of a study that nothing happened to."""
    known = {}

    def of(searcher):
        if searcher not in known:
            study = Study(tiny_study, tmp_path_factory.mktemp("whole"), searcher, TRIALS.get(searcher, 9))
            known[searcher] = study.open().run().kill().history
        return known[searcher]

    return of


def damages(journal):
    """Ways to damage a journal of whole lines."""
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    return {
        "lost": None,
        "empty": b"",
        "garbage": b"garbage\n" * 3,
        "zeros": b"\0" * 5000,
        "no log": b'{"op_code": 99}\n[]\nnull\n',
        "cut in the middle": b"".join(lines)[: len(b"".join(lines)) // 2],
        "a line less": b"".join(lines[:middle] + lines[middle + 1 :]),
        "a line twice": b"".join(lines[: middle + 1] + lines[middle:]),
        "two lines swapped": b"".join([*lines[:middle], lines[middle + 1], lines[middle], *lines[middle + 2 :]]),
        "without its beginning": b"".join(lines[1:]),
        "a digit": b"".join(lines).replace(b'"state":1', b'"state":2', 1),
    }


def put(journal, content):
    journal.unlink()
    if content is not None:
        journal.write_bytes(content)


@pytest.mark.parametrize("searcher", [*QUICK, pytest.param("gp", marks=pytest.mark.slow)])
def test_a_damaged_journal_is_built_anew_and_the_study_goes_on_as_if_nothing_was(
    study_of, undisturbed, tmp_path, caplog, searcher
):
    whole = study_of(searcher).open().run(TRIALS.get(searcher, 9) - 3).kill()
    for index, (name, content) in enumerate(damages(whole.journal).items()):
        if searcher == "gp" and name not in ("lost", "a line less"):
            continue
        caplog.clear()
        study = whole.copy(tmp_path / str(index))
        put(study.journal, content)
        study.open().run().kill()
        assert study.history == undisturbed(searcher), name
        (warning,) = [record for record in caplog.records if record.name == "ddcal.study.run.takeover"]
        assert "built anew from the ledger" in warning.message and str(study.journal) in warning.message
        aside = [] if content is None else [f"{JOURNAL}.contradicts-ledger-1"]
        assert study.set_aside() == aside and all(one in warning.message for one in aside)
        assert aside == [] or (study.folder / aside[0]).read_bytes() == content
        assert journal_problem(study.driver.study, study.folder, load_study(study.folder).records) is None
    assert len(undisturbed(searcher)) == TRIALS.get(searcher, 9)


@pytest.mark.parametrize("searcher", [*QUICK, pytest.param("gp", marks=pytest.mark.slow)])
def test_a_journal_cut_behind_any_line_leads_to_the_same_study(study_of, undisturbed, tmp_path, searcher):
    """Whether the lines are told again or the journal is built anew."""
    count = TRIALS.get(searcher, 9) - 2
    whole = study_of(searcher).open().run(count).kill()
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    some = random.Random(0).sample(range(len(lines)), 4) if searcher != "gp" else range(len(lines))
    for kept in sorted({*some, *range(len(lines) - 7, len(lines) + 1)}):
        study = whole.copy(tmp_path / str(kept))
        study.journal.write_bytes(b"".join(lines[:kept]))
        study.open().run().kill()
        assert study.history == undisturbed(searcher), f"{kept} of {len(lines)} lines"


@pytest.mark.slow
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_finished_study_without_its_journal_is_extended(study_of, undisturbed, searcher):
    """The former ddcal began to number anew and ended in TypeError for ever."""
    trials = TRIALS.get(searcher, 9)
    study = study_of(searcher, trials=trials - 3).open().run().kill()
    study.journal.unlink()
    study.open(trials - 1).run().kill()
    study.journal.write_text("")
    study.open(trials).run().kill()
    assert study.history == undisturbed(searcher)


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["tpe", "nsga2", "cma-es", "grid"])
@pytest.mark.parametrize("less", [1, 2, 3, 4, 5])
def test_a_ledger_that_has_lost_its_last_lines_neither_waits_for_ever_nor_grows(study_of, undisturbed, searcher, less):
    """A power cut: the journal knows of trials, and of their ends, that the ledger does not know."""
    study = study_of(searcher).open().run(6).kill()
    lines = (study.folder / LEDGER).read_bytes().splitlines(keepends=True)
    (study.folder / LEDGER).write_bytes(b"".join(lines[:-less]))
    study.open().run().kill()
    assert study.history == undisturbed(searcher)


@pytest.mark.parametrize("searcher", ["tpe", "nsga2", "cma-es"])
def test_trials_that_were_running_are_handed_out_again(study_of, searcher, tmp_path):
    """With several at a time: what was handed out keeps its values, whatever became of the journal."""
    study = study_of(searcher).open().run(4)
    asked = [one for one in (study.driver.next_assignment() for _ in range(4)) if one is not None]
    assert len(asked) >= 2
    values = {one.number: study.driver._running[one.number].values for one in asked}
    study.end(asked[1])
    study.kill()
    study.journal.unlink()
    study.open()
    for number in (one.number for one in asked if one is not asked[1]):
        again = study.driver.next_assignment()
        assert (again.number, again.attempt) == (number, 2)
        assert study.driver._running[number].values == values[number]
        study.end(again)
    study.run().kill()
    assert [number for number, *_ in study.history] == list(range(9))
    assert all(outcome is not None for _, _, outcome, _ in study.history)


@pytest.mark.parametrize("same_name", [True, False])
def test_another_study_s_journal_is_set_aside(study_of, undisturbed, tiny_study, tmp_path, caplog, same_name):
    study = study_of("tpe").open().run(5).kill()
    other = study_of("random", "other")
    if not same_name:
        other.make = lambda count: tiny_study(name="other", **other.sections, search={"trials": count})
    other.open().run(5).kill()
    shutil.copy(other.journal, study.journal)
    study.open().run().kill()
    assert study.history == undisturbed("tpe")
    assert study.set_aside() == [f"{JOURNAL}.contradicts-ledger-1"]


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to nothing"])
def test_what_is_no_file_in_the_journal_s_place_is_set_aside(study_of, undisturbed, kind):
    import os

    study = study_of("random").open().run(5).kill()
    study.journal.unlink()
    if kind == "folder":
        study.journal.mkdir()
    elif kind == "fifo":
        os.mkfifo(study.journal)
    else:
        study.journal.symlink_to("nowhere")
    study.open().run().kill()
    assert study.history == undisturbed("random")


def test_half_a_line_and_the_lock_of_a_killed_driver_are_removed(study_of, undisturbed):
    study = study_of("tpe").open().run(5).kill()
    whole = study.journal.read_bytes()
    study.journal.write_bytes(whole + b'{"op_code": 5, "wor')
    (study.folder / f"{JOURNAL}.lock").symlink_to(study.journal)
    study.open().run().kill()
    assert study.journal.read_bytes().startswith(whole) and study.history == undisturbed("tpe")
    assert study.set_aside() == [] and not (study.folder / f"{JOURNAL}.lock").is_symlink()


def test_a_journal_that_agrees_is_used_and_one_of_an_earlier_version_too(study_of, undisturbed, tmp_path, caplog):
    whole = study_of("nsga2").open().run(5).kill()
    before = whole.journal.read_bytes()
    old = whole.copy(tmp_path / "old")
    logs = [json.loads(line) for line in before.splitlines()]
    plain = [{name: value for name, value in log.items() if name not in ("after", "check")} for log in logs]
    old.journal.write_text("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in plain))
    write_plain(old.folder / LEDGER, plain_events(old.folder / LEDGER))
    for study in (whole, old):
        there = study.journal.read_bytes()
        study.open().run().kill()
        assert study.journal.read_bytes().startswith(there)
        assert study.history == undisturbed("nsga2") and study.set_aside() == []
    assert not caplog.records


def test_what_another_program_writes_into_the_journal_between_its_lines_is_no_damage(study_of, undisturbed):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = study_of("tpe").open().run(3)
    other = JournalStorage(JournalFileBackend(str(study.journal)))
    other.set_study_user_attr(other.get_all_studies()[0]._study_id, "note", "from the dashboard")
    study.run(2).kill().open().run().kill()
    assert study.history == undisturbed("tpe") and study.set_aside() == []


def test_a_ledger_of_a_former_ddcal_that_has_lost_its_journal_once_can_be_gone_on_with(study_of):
    """It numbered anew: trial 0 was started again after it had ended, which nobody could read any more."""
    study = study_of("random").open().run(3).kill()
    events = plain_events(study.folder / LEDGER)
    again = next(event for event in events if event["event"] == "trial_started") | {"values": events[3]["values"]}
    points = {"event": "trial_points", "time": 1, "number": 0, "points": [{"progress": 0.5, "stage": "train"}]}
    write_plain(study.folder / LEDGER, [*events, again, points])
    assert [outcome for _, _, outcome, _ in study.history] == [None, "complete", "complete"]
    study.open().run().kill()
    assert [number for number, *_ in study.history] == list(range(9))
    assert all(outcome is not None for _, _, outcome, _ in study.history)


def test_values_that_the_space_has_not_are_named(study_of):
    study = study_of("random").open().run(3).kill()
    events = plain_events(study.folder / LEDGER)
    next(event for event in events if event.get("number") == 2)["values"]["distill.backbone"] = "nonsense"
    write_plain(study.folder / LEDGER, events)
    study.journal.unlink()
    with pytest.raises(DamagedLedger, match="do not fit its space"):
        study.open()
