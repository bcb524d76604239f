"""``ddcal verify``: every part of a study's folder, whole, damaged and mended; and what other verbs say of damage."""

import json
import os
import shutil

import pytest
from ledgers import plain_events, write_plain
from typer.testing import CliRunner

from ddcal.cli import app
from ddcal.study import load_study, run_study
from ddcal.study.mlflow.cursor import CURSOR
from ddcal.study.record.confirmation import CONFIRMATION, write_confirmation
from ddcal.study.record.folder_files import STUDY
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.lock import LOCK
from ddcal.study.record.results import PARETO, SUMMARY, TRIALS
from ddcal.study.record.verify import verify_study
from ddcal.study.run.runner import resume_study
from ddcal.study.search.search import JOURNAL

VERBS = ("status", "pareto", "importance", "plots", "resume", "sync", "compare")
TRIAL = "tiny-0000"


@pytest.fixture(scope="module")
def made(tiny_study, tmp_path_factory):
    """A study of three trials with MLflow, and a confirmation of one."""
    root = tmp_path_factory.mktemp("made")
    results = run_study(tiny_study(search={"trials": 3}, tracking={}), output=root, debug=True)
    leader = {
        "trial_key": TRIAL,
        "metric": "val/ece",
        "searched": 0.1,
        "mean": 0.2,
        "low": 0.1,
        "high": 0.3,
        "seeds": 2,
    }
    content = {"seeds": 2, "study": "tiny-confirm", "leaders": [leader]}
    (results.directory / CONFIRMATION).write_text(json.dumps(content))
    results.write()
    return root


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "runs", symlinks=True)
    return tmp_path / "runs" / "tiny"


def ddcal(*arguments):
    """Run a verb; nobody ever sees a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def faults(folder):
    return {part.name: part.fault for part in verify_study(folder) if part.fault is not None}


def flip(folder, line, old, new):
    lines = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    (folder / LEDGER).write_bytes(b"".join(lines))


def line_of(folder, event, number):
    lines = plain_events(folder / LEDGER)
    return 1 + next(i for i, one in enumerate(lines) if (one["event"], one.get("number")) == (event, number))


def test_a_whole_study_is_said_to_be_whole_and_nothing_is_written(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = ddcal("verify", folder)
    assert result.exit_code == 0, result.output
    names = [LEDGER, STUDY, JOURNAL, TRIALS, PARETO, SUMMARY, CURSOR, CONFIRMATION, "store"]
    assert result.output.splitlines() == [f"{name}: whole" for name in names]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [part["whole"] for part in json.loads(ddcal("verify", folder, "--json").stdout)] == [True] * len(names)


def test_a_folder_that_is_no_study_s_is_refused(tmp_path):
    result = ddcal("verify", tmp_path)
    assert result.exit_code == 2 and f"{tmp_path} is not a study's folder" in result.output


def test_a_damaged_ledger_is_refused_by_every_verb_and_verify_says_what_is_lost(folder):
    line = line_of(folder, "trial_finished", 1)
    flip(folder, line, b'"outcome": "complete"', b'"outcome": "camplete"')
    for verb in VERBS:
        result = ddcal(verb, folder)
        assert result.exit_code == 2 and f"{LEDGER}: line {line}: " in result.output, verb
        assert "it held trial 1's result" in result.output and "ddcal verify" in result.output
    result = ddcal("verify", folder)
    assert result.exit_code == 1 and f"{LEDGER}: line {line}: its checksum does not fit it" in result.output
    assert f"ddcal verify {folder} --repair" in result.output


@pytest.mark.parametrize(
    ("event", "number", "again"),
    [("trial_finished", 1, [1]), ("trial_started", 1, [1]), ("trial_points", 1, []), ("study_finished", None, [])],
)
def test_a_mended_ledger_leads_to_the_study_that_it_was(folder, event, number, again):
    before = load_study(folder)
    line = line_of(folder, event, number)
    flip(folder, line, b'"event"', b'"tneve"')
    damaged = (folder / LEDGER).read_bytes()
    result = ddcal("verify", folder, "--repair")
    assert result.exit_code == 0, result.output
    assert f"line {line}: " in result.output and f"{LEDGER}.damaged-1" in result.output
    assert (folder / f"{LEDGER}.damaged-1").read_bytes() == damaged
    assert faults(folder) == {}
    mended = load_study(folder)
    assert [
        trial.number for trial in before.records if trial.number not in {t.number for t in mended.records if t.outcome}
    ] == again
    assert len(mended.repaired) >= 1 and mended.repaired[0].startswith(f"line {line}: ")
    after = resume_study(folder, debug=True)
    assert [(t.number, t.values, t.metrics, t.keys) for t in after.records] == [
        (t.number, t.values, t.metrics, t.keys) for t in before.records
    ]
    assert faults(folder) == {}


@pytest.mark.parametrize("content", [b"garbage\n", b'{"event": "trial_started"}\n', None])
def test_a_ledger_without_its_first_line_cannot_be_mended_and_stays(folder, content):
    lines = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    (folder / LEDGER).write_bytes(b"".join([*([] if content is None else [content]), *lines[1:]]))
    before = (folder / LEDGER).read_bytes()
    result = ddcal("verify", folder, "--repair")
    assert result.exit_code == 1 and "it cannot be mended" in result.output
    assert (folder / LEDGER).read_bytes() == before


def test_a_line_of_an_earlier_version_that_was_changed_is_not_mended(folder):
    write_plain(folder / LEDGER, plain_events(folder / LEDGER))
    resume_study(folder, debug=True)
    flip(folder, 2, b'"time": 1', b'"time": 2')
    before = (folder / LEDGER).read_bytes()
    result = ddcal("verify", folder, "--repair")
    assert result.exit_code == 1 and "which of those lines was changed cannot be told" in result.output
    assert (folder / LEDGER).read_bytes() == before


GARBAGE = [b"", b"garbage", b"[" * 100_000, b'"text"', b"[]", b"\xff\xfe", b"1" * 10_000,
           b'{"offset": 1e999, "parent": null, "runs": {}}', b'{"offset": 99999999999, "parent": 1, "runs": []}',
           b'{"seeds": 2, "study": "x", "leaders": [{"trial_key": 1}]}', b"number,outcome\n1,complete\n"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [STUDY, TRIALS, PARETO, SUMMARY, CURSOR, JOURNAL, CONFIRMATION, LOCK])
def test_anything_in_the_place_of_a_file_is_told_and_what_can_be_is_mended(folder, name):
    """Garbage, other types, huge numbers, nothing, a folder: no traceback, no wrong result."""
    path = folder / name
    original = path.read_bytes() if path.exists() else None
    for content in [*GARBAGE, "folder", "fifo"]:
        path.unlink(missing_ok=True)
        if content == "folder":
            path.mkdir()
        elif content == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(content)
        result = ddcal("verify", folder)
        assert result.exit_code == 1 and f"{name}: " in result.output, (content, result.output)
        assert set(faults(folder)) == {name}
        if name == LOCK:
            assert ddcal("status", folder).exit_code == 0
            assert ddcal("verify", folder, "--repair").exit_code == 2
        else:
            result = ddcal("verify", folder, "--repair")
            assert result.exit_code == (1 if name == CONFIRMATION else 0), (content, result.output)
        for aside in folder.glob(f"{name}.*"):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        if name in (LOCK, CONFIRMATION):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif name != CURSOR:
            assert path.is_file()
        assert faults(folder) == {}
        if original is not None:
            path.write_bytes(original)


def test_a_confirmation_that_is_none_counts_for_nothing_and_that_is_said(folder, caplog):
    (folder / CONFIRMATION).write_text('{"leaders": [{"trial_key": "tiny-0001", "metric": 1}]}')
    results = load_study(folder)
    assert results.confirmed(results.trial("1")) is False
    assert f"{CONFIRMATION} cannot be used" in caplog.text and "nothing counts as confirmed" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("seeds", 3), ("study", "other-confirm"), ("mean", 0.1)])
def test_an_edited_confirmation_is_noticed_and_one_in_another_layout_is_not(folder, caplog, name, value):
    before = json.loads((folder / CONFIRMATION).read_text())
    write_confirmation(folder, before["seeds"], before["study"], before["leaders"])
    content = json.loads((folder / CONFIRMATION).read_text())
    assert content == before | {"sha256": content["sha256"]} and faults(folder) == {}
    (folder / CONFIRMATION).write_text(json.dumps(dict(reversed(content.items()))))
    assert faults(folder) == {}
    (content if name in content else content["leaders"][0])[name] = value
    (folder / CONFIRMATION).write_text(json.dumps(content))
    assert "(it does not match its own sha256); remove it: nothing counts as conf" in faults(folder)[CONFIRMATION]
    results = load_study(folder)
    assert results.confirmed(results.trial("0")) is False and "does not match its own sha256" in caplog.text


def test_a_folder_in_a_table_s_place_is_named(folder):
    (folder / PARETO).unlink()
    (folder / PARETO).mkdir()
    result = ddcal("pareto", folder)
    assert result.exit_code == 2 and f"{folder / PARETO} is a folder" in result.output


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_entries_of_the_store_that_a_trial_names_are_looked_at(folder, what):
    key = load_study(folder).trial("1").keys["train"]
    entry = folder.parent / "store" / "train" / key
    assert entry.is_dir()
    if what == "missing":
        shutil.rmtree(entry)
    else:
        next(path for path in entry.iterdir() if path.name != "manifest.json").write_bytes(b"garbage")
    (name,) = faults(folder)
    assert name.startswith(f"train/{key[:12]} of tiny-000") and ddcal("verify", folder).exit_code == 1


@pytest.mark.slow
def test_after_a_lost_cursor_mlflow_gets_nothing_twice(folder):
    from comparing import mirrored

    uri = f"sqlite:///{folder.parent}/mlflow.db"
    before = mirrored(uri)
    for content in (None, b"garbage", b'{"offset": 0, "parent": null, "runs": {}, "check": "0000000000000000"}'):
        (folder / CURSOR).unlink()
        if content is not None:
            (folder / CURSOR).write_bytes(content)
        assert ddcal("sync", folder).exit_code == 0
        assert mirrored(uri) == before
