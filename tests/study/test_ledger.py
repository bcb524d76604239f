import json
import math

import pytest
from disks import no_file_above

from ddcal.study.ledger import LEDGER, Ledger, read_ledger


@pytest.fixture
def written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("study_started", name="a")
    ledger.append("trial_started", number=0, values={"x": 1.5})
    ledger.close()
    return tmp_path


def test_events_come_back_in_order(written):
    first, second = read_ledger(written)
    assert 0 <= second.pop("time") - first.pop("time") < 60_000, "milliseconds"
    assert first == {"event": "study_started", "name": "a"}
    assert second == {"event": "trial_started", "number": 0, "values": {"x": 1.5}}


def test_names_keep_their_order(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("e", objectives={"val/nll": "min", "val/ece": "min", "a": "max"})
    ledger.close()
    (event,) = read_ledger(tmp_path)
    assert list(event["objectives"]) == ["val/nll", "val/ece", "a"]


@pytest.mark.parametrize("kept", range(0, 40, 3))
def test_a_half_written_last_line_is_cut_off(written, kept):
    path = written / LEDGER
    whole = path.read_bytes()
    torn = whole + b'{"event": "trial_finished", "number": 0, "x": 1}'[: kept + 1]
    path.write_bytes(torn)
    assert [event["event"] for event in read_ledger(written)] == ["study_started", "trial_started"]
    ledger = Ledger(written)
    ledger.append("next", number=1)
    ledger.close()
    assert path.read_bytes().startswith(whole + b'{"event": "next", "time": ')
    assert [event["event"] for event in read_ledger(written)] == ["study_started", "trial_started", "next"]


def test_a_ledger_that_is_one_torn_line_begins_again(tmp_path):
    (tmp_path / LEDGER).write_bytes(b'{"event": "stu')
    assert list(read_ledger(tmp_path)) == []
    ledger = Ledger(tmp_path)
    ledger.append("study_started")
    ledger.close()
    assert [event["event"] for event in read_ledger(tmp_path)] == ["study_started"]
    assert (tmp_path / LEDGER).read_bytes().count(b"\n") == 1


def test_a_line_that_the_disk_does_not_take_whole_is_not_there_and_the_next_one_is(written):
    before = (written / LEDGER).read_bytes()
    ledger = Ledger(written)
    with no_file_above(len(before) + 20), pytest.raises(OSError, match="too large"):
        ledger.append("trial_finished", number=0, error="x" * 100)
    assert (written / LEDGER).read_bytes() == before
    ledger.append("next", number=1)
    ledger.close()
    assert [event["event"] for event in read_ledger(written)] == ["study_started", "trial_started", "next"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_become_null(tmp_path, value):
    ledger = Ledger(tmp_path)
    ledger.append("e", metrics={"a": value, "b": [1.0, (value,)]}, c=value)
    ledger.close()
    event = json.loads((tmp_path / LEDGER).read_text())
    del event["time"]
    assert event == {"event": "e", "metrics": {"a": None, "b": [1.0, [None]]}, "c": None}


def test_a_folder_without_a_ledger_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="ledger"):
        list(read_ledger(tmp_path))
