"""The ledger: what is written comes back, and whatever happens to the file is noticed and named."""

import json
import math

import pytest
from disks import no_file_above
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import plain_events, write_plain
from pydantic import ValidationError

from ddcal.study.record.chain import seal
from ddcal.study.record.events import (
    StudyFinished,
    StudyResumed,
    StudyStarted,
    TrialFinished,
    TrialPoints,
    TrialStarted,
)
from ddcal.study.record.ledger import LEDGER, DamagedLedger, Ledger, begun, numbered, read_ledger, read_lines

STUDY = {"objectives": {"val/nll": "min", "val/ece": "min", "a": "max"}}


def started(ledger, number, **values):
    config = {"seed": number}
    ledger.append(TrialStarted, number=number, trial_key=f"a-{number:04d}", values=values, config=config)


def finished(ledger, number, ece=0.5):
    ledger.append(TrialFinished, number=number, outcome="complete", metrics={"val/ece": ece})


@pytest.fixture
def written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(StudyStarted, study=STUDY)
    started(ledger, 0, x=1.5)
    ledger.close()
    return tmp_path


def fill(directory, trials=3):
    """A study of trials that have points and results."""
    ledger = Ledger(directory)
    ledger.append(StudyStarted, study=STUDY)
    for number in range(trials):
        started(ledger, number, x=number)
        ledger.append(TrialPoints, number=number, points=[{"progress": 0.5, "stage": "train", "val/ece": 0.5}])
        finished(ledger, number)
    ledger.append(StudyFinished, seconds=1.0, interrupted=False, finished=trials)
    ledger.close()


@pytest.fixture
def lines(tmp_path):
    """The lines of a whole ledger."""
    fill(tmp_path)
    return (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)


def kinds(directory):
    return [event.event for event in read_ledger(directory)]


def test_events_come_back_in_order(written):
    first, second = read_ledger(written)
    assert 0 <= second.time - first.time < 60_000, "milliseconds"
    assert isinstance(first, StudyStarted) and first.study == STUDY
    assert isinstance(second, TrialStarted) and (second.number, second.values) == (0, {"x": 1.5})


def test_names_keep_their_order(written):
    assert list(next(iter(read_ledger(written))).study["objectives"]) == ["val/nll", "val/ece", "a"]


@pytest.mark.parametrize("kept", range(0, 40, 3))
def test_a_half_written_last_line_is_cut_off(written, kept):
    path = written / LEDGER
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "trial_finished", "number": 0, "x": 1}'[: kept + 1])
    assert kinds(written) == ["study_started", "trial_started"]
    ledger = Ledger(written)
    finished(ledger, 0)
    ledger.close()
    assert path.read_bytes().startswith(whole + b'{"event": "trial_finished", "time": ')
    assert kinds(written) == ["study_started", "trial_started", "trial_finished"]


def test_a_ledger_that_is_one_torn_line_begins_again(tmp_path):
    (tmp_path / LEDGER).write_bytes(b'{"event": "stu')
    assert list(read_ledger(tmp_path)) == [] and not begun(tmp_path)
    ledger = Ledger(tmp_path)
    ledger.append(StudyStarted, study=STUDY)
    ledger.close()
    assert kinds(tmp_path) == ["study_started"]
    assert (tmp_path / LEDGER).read_bytes().count(b"\n") == 1


def test_a_line_that_the_disk_does_not_take_whole_is_not_there_and_the_next_one_is(written):
    before = (written / LEDGER).read_bytes()
    ledger = Ledger(written)
    with no_file_above(len(before) + 20), pytest.raises(OSError, match="too large"):
        ledger.append(TrialFinished, number=0, outcome="failed", metrics={}, error="x" * 100)
    assert (written / LEDGER).read_bytes() == before
    finished(ledger, 0)
    ledger.close()
    assert kinds(written) == ["study_started", "trial_started", "trial_finished"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_become_null(written, value):
    ledger = Ledger(written)
    ledger.append(TrialPoints, number=0, points=({"progress": 0.5, "a": value, "b": (value,)},))
    ledger.append(TrialFinished, number=0, outcome="complete", metrics={"a": value})
    ledger.close()
    points, end = list(read_ledger(written))[2:]
    assert points.points == [{"progress": 0.5, "a": None, "b": [None]}] and end.metrics == {"a": None}


def test_text_that_is_no_valid_unicode_can_be_written_and_read(written):
    """A path in an error's message may hold half of a surrogate pair; earlier versions have written it as such."""
    ledger = Ledger(written)
    ledger.append(TrialFinished, number=0, outcome="failed", metrics={}, error="no file \udcff")
    ledger.close()
    assert list(read_ledger(written))[-1].error == "no file \\udcff"
    events = plain_events(written / LEDGER)
    write_plain(written / LEDGER, [*events[:2], events[2] | {"error": "no file \udcff"}])
    assert list(read_ledger(written))[-1].error == "no file \\udcff"


def test_half_a_surrogate_pair_in_a_name_is_replaced_too_and_the_seals_hold(written):
    """Whoever writes a ledger can write one anywhere, sealed as it should be."""
    lines, check = [], ""
    odd = ({"\udce9": 1.0, "a": {"\udce9": ["\udce9"]}}, {"val/\udce9": 0.5})
    for number, event in enumerate(plain_events(written / LEDGER), start=1):
        event |= {"values": odd[0], "config": odd[0]} if event["event"] == "trial_started" else {}
        line, check = seal(check, numbered(json.dumps(event).encode(), number))
        lines.append(line)
    event = {"event": "trial_finished", "time": 1, "number": 0, "outcome": "complete", "metrics": odd[1]}
    lines.append(seal(check, numbered(json.dumps(event).encode(), len(lines) + 1))[0])
    (written / LEDGER).write_bytes(b"".join(lines))
    assert b"\\udce9" in (written / LEDGER).read_bytes()
    *_, trial, end = read_ledger(written)
    assert trial.values == trial.config == {"\\udce9": 1.0, "a": {"\\udce9": ["\\udce9"]}}
    assert end.metrics == {"val/\\udce9": 0.5}
    assert all(line.fault is None for line in read_lines(written))


def test_what_is_no_event_is_not_written(written):
    ledger = Ledger(written)
    with pytest.raises(ValidationError):
        ledger.append(TrialFinished, number=0, outcome="done", metrics={})
    finished(ledger, 0)
    ledger.close()
    assert kinds(written)[-1] == "trial_finished"


def test_a_folder_without_a_ledger_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="ledger"):
        list(read_ledger(tmp_path))


def test_a_folder_in_the_ledger_s_place_is_named(tmp_path):
    (tmp_path / LEDGER).mkdir()
    with pytest.raises(DamagedLedger, match=f"{LEDGER} is a folder"):
        list(read_ledger(tmp_path))


# Damage


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: {6: lines[6].replace(b'"val/ece": 0.5', b'"val/ece": 0.4')}, "line 7: .* trial 1's result"),
        (lambda lines: {6: lines[6].replace(b'"number": 1', b'"number": 2')}, "line 7: .*checksum does not fit"),
        (lambda lines: {6: b"\0" * 30 + b"\n"}, "line 7: .* one event"),
        (lambda lines: {0: b"garbage\n"}, "line 1: .* one event"),
        (lambda lines: {0: lines[0][:-30] + b"\n"}, "line 1: .* what the study is"),
        (lambda lines: {4: lines[4][:40] + lines[4][41:]}, "line 5: .* with which values trial 1 began"),
        (lambda lines: {9: lines[9].replace(b'"check"', b'"chekc"')}, "line 10: .* no checksum.* trial 2's result"),
        (lambda lines: {3: b""}, r"line 4: a line before it is missing or moved; what was in it cannot be told"),
        (lambda lines: {3: b"", 4: b"", 5: b""}, "line 4: 3 lines before it are missing or moved"),
        (lambda lines: {3: lines[3] * 2}, r"line 5: .*it was line 4: lines were doubled or moved"),
        (lambda lines: {3: lines[4], 4: lines[3]}, r"line 4: a line before it is missing or moved"),
        (lambda lines: {3: lines[3][:50] + b"\n" + lines[3][50:]}, "line 4: .*no checksum"),
        (lambda lines: {3: lines[3][:-1]}, "line 4"),
        (lambda lines: {0: b""}, "line 1: "),
    ],
    ids=["a value", "a number", "zeros", "first line", "its end", "a byte less", "the checksum's name", "a line less",
         "three lines less", "doubled", "swapped", "split", "joined", "without its first line"],
)  # fmt: skip
def test_a_line_that_was_changed_is_named_with_what_is_lost(tmp_path, lines, change, words):
    changed = {**dict(enumerate(lines)), **change(lines)}
    (tmp_path / LEDGER).write_bytes(b"".join(changed[index] for index in range(len(lines))))
    with pytest.raises(DamagedLedger, match=words) as refused:
        list(read_ledger(tmp_path))
    assert str(tmp_path / LEDGER) in str(refused.value) and f"`ddcal verify {tmp_path}`" in str(refused.value)
    with pytest.raises(DamagedLedger):
        Ledger(tmp_path)


def test_a_line_of_another_study_s_ledger_is_noticed(tmp_path, lines):
    (tmp_path / "other").mkdir()
    fill(tmp_path / "other", trials=4)
    other = (tmp_path / "other" / LEDGER).read_bytes().splitlines(keepends=True)
    (tmp_path / LEDGER).write_bytes(b"".join([*lines[:6], other[6], *lines[7:]]))
    with pytest.raises(DamagedLedger, match=r"line 7: .*written behind another line"):
        list(read_ledger(tmp_path))


def test_lines_after_a_damaged_one_are_still_known_to_be_whole(tmp_path, lines):
    (tmp_path / LEDGER).write_bytes(b"".join([*lines[:6], lines[6][:20] + b"\n" + lines[6][20:], *lines[7:]]))
    read = list(read_lines(tmp_path))
    assert [line.number for line in read if line.event is None] == [7, 8]
    assert [line.event.event for line in read[8:]] == [
        "trial_started",
        "trial_points",
        "trial_finished",
        "study_finished",
    ]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_byte_can_be_changed_without_notice(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flip")
    fill(folder, trials=1)
    whole = (folder / LEDGER).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 2))  # the last line break alone: a torn line
    to = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    (folder / LEDGER).write_bytes(whole[:at] + bytes([to]) + whole[at + 1 :])
    with pytest.raises(DamagedLedger):
        list(read_ledger(folder))


# Ledgers of earlier versions


@pytest.fixture
def old(tmp_path, lines):
    """A ledger as earlier versions wrote it."""
    write_plain(tmp_path / LEDGER, plain_events(tmp_path / LEDGER))
    assert b"check" not in (tmp_path / LEDGER).read_bytes()
    return tmp_path


def test_a_ledger_without_checksums_is_read_and_gone_on_with(old):
    before = kinds(old)
    ledger = Ledger(old)
    ledger.append(StudyResumed, study=STUDY, environment={})
    started(ledger, 3, x=3)
    ledger.close()
    assert kinds(old) == [*before, "study_resumed", "trial_started"]
    ledger = Ledger(old)
    finished(ledger, 3)
    ledger.close()
    assert kinds(old)[-1] == "trial_finished"
    stated = [line.get("line") for line in map(json.loads, (old / LEDGER).read_text().splitlines())]
    assert stated == [None] * len(before) + [12, 13, 14]


@pytest.mark.parametrize("line", [1, 5, 11])
def test_once_gone_on_with_the_lines_of_earlier_versions_are_protected_too(old, line):
    ledger = Ledger(old)
    ledger.append(StudyResumed, study=STUDY, environment={})
    ledger.close()
    events = (old / LEDGER).read_bytes().splitlines(keepends=True)
    events[line - 1] = events[line - 1].replace(b'"time": 1', b'"time": 2')
    (old / LEDGER).write_bytes(b"".join(events))
    with pytest.raises(DamagedLedger, match=r"line 12: .*lines 1 to 11, is not as it was"):
        list(read_ledger(old))


@pytest.mark.parametrize(
    ("line", "change", "words"),
    [
        (7, lambda event: event | {"outcome": "done"}, "line 7: .*outcome: .*trial 1's result"),
        (7, lambda event: event | {"metrics": {"val/ece": "0.5"}}, r"metrics\.val/ece: .*valid number"),
        (7, lambda event: event | {"metrics": [0.5]}, "metrics: "),
        (7, lambda event: event | {"number": -1}, "number: "),
        (7, lambda event: event | {"number": True}, "number: "),
        (7, lambda event: event | {"number": 10**30}, "number: "),
        (7, lambda event: event | {"number": 2}, "trial 2 does not run by then"),
        (7, lambda event: event | {"seconds": "x"}, "seconds: "),
        (7, lambda event: event | {"resutls": 1}, "resutls: "),
        (7, lambda event: event | {"event": "trial_ended"}, "no event that this version of ddcal knows"),
        (7, lambda event: {k: v for k, v in event.items() if k != "event"}, "no event"),
        (7, lambda event: [event], "line 7"),
        (5, lambda event: event | {"trial_key": "/home/me"}, "trial_key: .*with which values trial 1 began"),
        (5, lambda event: event | {"trial_key": "../../me"}, "trial_key: "),
        (5, lambda event: event | {"trial_key": "\x1b[2J"}, "trial_key: "),
        (5, lambda event: event | {"trial_key": ""}, "trial_key: "),
        (5, lambda event: event | {"keys": {"train": ".."}}, r"keys\.train: "),
        (7, lambda event: event | {"keys": {"evaluate": "/home/me/.ssh"}}, r"keys\.evaluate: .*trial 1's result"),
        (7, lambda event: event | {"keys": {"../evaluate": "0" * 64}}, "keys"),
        (11, lambda event: event | {"best": {"trial_key": "a/b", "metrics": None}}, r"best\.trial_key: "),
        (6, lambda event: event | {"points": []}, "points: "),
        (6, lambda event: event | {"points": [{"progress": "0.5"}]}, "progress from 0 to 1"),
        (6, lambda event: event | {"points": [{"stage": "train"}]}, "progress from 0 to 1"),
        (1, lambda event: event | {"study": None}, "study: "),
        (1, lambda event: event | {"event": "study_resumed", "study": {}}, "begins with study_started"),
    ],
)  # fmt: skip
def test_without_checksums_an_event_of_another_form_is_noticed(old, line, change, words):
    events = plain_events(old / LEDGER)
    events[line - 1] = change(events[line - 1])
    write_plain(old / LEDGER, events)
    with pytest.raises(DamagedLedger, match=words):
        list(read_ledger(old))


def test_names_may_have_any_letters(old):
    events = plain_events(old / LEDGER)
    keys = {"Größe": "0" * 64, "my_stage.2": "a-b"}
    write_plain(old / LEDGER, [events[0], events[1] | {"trial_key": "größe-0000", "keys": keys}, *events[2:]])
    first = list(read_ledger(old))[1]
    assert (first.trial_key, first.keys) == ("größe-0000", keys)


@pytest.mark.parametrize("garbage", ["{", "", "null", '"text"', "[" * 100_000, '{"event": NaN}', "{}", "1e999"])
def test_without_checksums_a_line_that_is_none_is_noticed(old, garbage):
    lines = (old / LEDGER).read_text().splitlines()
    (old / LEDGER).write_text("\n".join([*lines[:6], garbage, *lines[7:]]) + "\n")
    with pytest.raises(DamagedLedger, match="line 7"):
        list(read_ledger(old))


def test_without_checksums_a_result_that_is_there_twice_is_noticed(old):
    events = plain_events(old / LEDGER)
    write_plain(old / LEDGER, [*events[:7], *events[6:]])
    with pytest.raises(DamagedLedger, match=r"line 8: .*trial 1 does not run by then"):
        list(read_ledger(old))


def test_the_picture_that_earlier_versions_named_is_accepted(old):
    events = plain_events(old / LEDGER)
    write_plain(old / LEDGER, [event | {"diagram": "a.png"} if "metrics" in event else event for event in events])
    assert [event.diagram for event in read_ledger(old) if isinstance(event, TrialFinished)] == ["a.png"] * 3


def test_old_lines_behind_new_ones_are_refused(tmp_path, lines, old):
    plain = (old / LEDGER).read_bytes().splitlines(keepends=True)
    (old / LEDGER).write_bytes(b"".join([*lines[:10], plain[10]]))
    with pytest.raises(DamagedLedger, match=r"line 11: .*no checksum"):
        list(read_ledger(old))
