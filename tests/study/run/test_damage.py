"""Random damage to what a study's folder keeps: a clear error or the right result; no traceback, no hang."""

import json
import logging
import random
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import plain_events, write_plain
from test_takeover import Study

from ddcal.errors import BadInput
from ddcal.study import load_study
from ddcal.study.mlflow.cursor import CURSOR, Cursor
from ddcal.study.record.confirmation import CONFIRMATION, read_confirmation, write_confirmation
from ddcal.study.record.ledger import LEDGER
from ddcal.study.record.status import study_status
from ddcal.study.record.verify import verify_study
from ddcal.study.run.takeover import journal_problem
from ddcal.study.search.search import JOURNAL

FEW, MANY = 100, 1000
VALUES = (None, True, -1, 0, 3, 10**40, 1e308, 0.5, "", "x", [], [1], {}, {"a": None})
LEADER = {"trial_key": "tiny-0001", "metric": "val/ece", "seeds": 2}
LEADER |= {"searched": 0.1, "mean": 0.2, "low": 0.1, "high": 0.3}


@pytest.fixture(scope="module")
def whole(tiny_study, tmp_path_factory):
    """The folder of a study of six trials that has ended, with a cursor and a confirmation."""
    study = Study(tiny_study, tmp_path_factory.mktemp("whole"), "nsga2", 6).open().run()
    study.driver.close()
    Cursor(offset=(study.folder / LEDGER).stat().st_size, parent="p" * 32).write(study.folder)
    write_confirmation(study.folder, 2, "tiny-confirm", [LEADER])
    content = json.loads((study.folder / CONFIRMATION).read_text())
    (study.folder / CONFIRMATION).write_text(json.dumps(content))  # a line, as `damaged` has it
    return study.folder


def retyped(value, rng):
    """JSON in which one value somewhere is another one."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        return {**value, name: retyped(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], retyped(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def damaged(content, rng):
    """The bytes of a file after one mishap."""
    lines = content.splitlines(keepends=True)
    at, kind = rng.randrange(len(content)), rng.randrange(8)
    if kind == 0:
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[at + rng.randrange(1, 200) :]
    if kind == 3:
        return content[:at] + rng.randbytes(rng.randrange(1, 20)) + content[at:]
    line, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 4:
        lines[line], lines[other] = lines[other], lines[line]
    elif kind == 5:
        lines.insert(other, lines[line])
    elif kind == 6:
        del lines[line]
    else:
        lines[line] = json.dumps(retyped(json.loads(lines[line]), rng)).encode() + b"\n"
    return b"".join(lines)


def facts(folder):
    """What reading verbs show of a study, or the clear error."""
    try:
        results = load_study(folder)
        results.summary(), results.trials, study_status(folder), [trial.config for trial in results.records]
        return [(t.number, t.values, t.outcome, t.metrics) for t in results.records], results.ending
    except BadInput as error:
        assert str(folder) in str(error) or LEDGER in str(error)
        return None


def fuzz(whole, tmp_path_factory, name, judge, examples):
    folder = tmp_path_factory.mktemp("fuzz") / "tiny"
    shutil.copytree(whole, folder)
    content, counts = (folder / name).read_bytes(), Counter()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**32))
    def one(seed):
        (folder / name).write_bytes(damaged(content, random.Random(seed)))
        counts[judge(folder, content)] += 1
        verify_study(folder)

    one()
    print(f"\n{name}: {dict(counts)}")
    assert sum(counts.values()) >= examples // 2  # a seed that came twice is not tried twice


EXAMPLES = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damage_to_the_ledger_is_refused_or_has_done_no_harm(whole, tmp_path_factory, examples):
    lines = (whole / LEDGER).read_bytes().splitlines(keepends=True)
    cut = []  # what is right where the file's end alone is gone: a driver that was killed
    for kept in range(len(lines) + 1):
        folder = tmp_path_factory.mktemp("cut")
        (folder / LEDGER).write_bytes(b"".join(lines[:kept]))
        cut.append(facts(folder))

    def judge(folder, content):
        found = facts(folder)
        if found is None:
            return "refused"
        there = (folder / LEDGER).read_bytes()
        whole_lines = there[: there.rfind(b"\n") + 1]
        assert content.startswith(whole_lines), "what is read was written"
        assert found == cut[whole_lines.count(b"\n")]
        return "unharmed" if found == cut[-1] else "cut at its end"

    fuzz(whole, tmp_path_factory, LEDGER, judge, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damage_to_a_ledger_of_an_earlier_version_is_refused_or_read(whole, tmp_path_factory, examples):
    """Without checksums a value that is another one cannot be told; what cannot be is refused."""
    old = tmp_path_factory.mktemp("old") / "tiny"
    shutil.copytree(whole, old)
    write_plain(old / LEDGER, plain_events(old / LEDGER))
    right = facts(old)

    def judge(folder, content):
        found = facts(folder)
        return "refused" if found is None else "unharmed" if found == right else "read as it is"

    fuzz(old, tmp_path_factory, LEDGER, judge, examples)


def test_a_ledger_that_does_not_say_where_it_was_computed_is_read(whole, tmp_path):
    old = tmp_path / "tiny"
    shutil.copytree(whole, old)
    first, *others = plain_events(old / LEDGER)
    left = {name: value for name, value in first.items() if name not in ("environment", "versions", "study_id")}
    write_plain(old / LEDGER, [left, *others])
    summary = load_study(old).summary()
    assert summary["environment"] == {} and summary["versions"] == {} and summary["winner"] is not None


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damage_to_the_journal_is_noticed_or_has_done_no_harm(whole, tmp_path_factory, examples):
    results = load_study(whole)
    logging.getLogger("ddcal").setLevel(logging.ERROR)

    def judge(folder, content):
        if journal_problem(results.study, folder, results.records) is not None:
            return "built anew"
        there = (folder / JOURNAL).read_bytes()
        kept = there[: there.rfind(b"\n") + 1]
        used = kept.splitlines()
        assert content.splitlines()[: len(used) - 1] == used[:-1], "the last line's checksum alone may be lost"
        return "unharmed" if there == content else "cut at its end"

    fuzz(whole, tmp_path_factory, JOURNAL, judge, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damage_to_mlflow_s_cursor_is_noticed_or_has_done_no_harm(whole, tmp_path_factory, examples):
    right = Cursor.read(whole)

    def judge(folder, content):
        found = Cursor.read(folder)
        assert found.lost or found == right or found == Cursor(lost=found.lost)
        return "looked through again" if found.lost else "unharmed"

    fuzz(whole, tmp_path_factory, CURSOR, judge, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_damage_to_the_confirmation_is_noticed_or_has_done_no_harm(whole, tmp_path_factory, examples):
    results, right = load_study(whole), read_confirmation(whole)
    logging.getLogger("ddcal").setLevel(logging.ERROR)

    def judge(folder, content):
        found = load_study(folder)
        confirmed = found.confirmed(results.trial("1"))
        try:
            assert read_confirmation(folder) == right
            return "unharmed"
        except (OSError, ValueError):
            assert confirmed is False
            return "refused"

    fuzz(whole, tmp_path_factory, CONFIRMATION, judge, examples)
