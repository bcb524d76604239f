"""Optuna's journal with a sync a trial: what reaches the disk when, and what a machine that goes down loses."""

import os

import pytest
from disks import no_file_above
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ddcal.study.search.search import JOURNAL, StudySearch

METRICS = {"val/ece": 0.1, "val/accuracy": 0.9}


@pytest.fixture
def search(tiny_study, tmp_path):
    return StudySearch(tiny_study(), tmp_path)


@pytest.fixture
def synced(monkeypatch):
    """The sizes of files at the moment they were brought to the disk."""
    sizes = []
    fsync = os.fsync

    def noted(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return sizes


def test_a_suggestion_is_on_the_disk_when_it_is_handed_out_and_costs_one_sync(search, tmp_path, synced):
    number, _ = search.ask()
    assert synced == [(tmp_path / JOURNAL).stat().st_size]
    search.tell(number, "complete", METRICS)
    assert len(synced) == 1  # the ledger has the end of the trial


def test_other_programs_read_the_journal_and_write_into_it(search, tmp_path):
    number, values = search.ask()
    other = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    (study,) = other.get_all_studies()
    assert other.get_all_trials(study._study_id)[number].params == values
    other.set_study_user_attr(study._study_id, "note", "from the dashboard")
    search.tell(number, "complete", METRICS)
    assert search.optuna.user_attrs == {"note": "from the dashboard"}


def test_ends_that_went_down_with_the_machine_are_told_again(search, tiny_study, tmp_path, synced):
    number, values = search.ask()
    search.tell(number, "complete", METRICS)
    with (tmp_path / JOURNAL).open("r+b") as journal:
        journal.truncate(synced[-1])
    again = StudySearch(tiny_study(), tmp_path)
    assert again.unfinished() == [(number, values)]
    again.tell(number, "complete", METRICS)
    assert again.ask()[0] == number + 1


def test_a_line_that_the_disk_does_not_take_whole_is_not_there_and_the_next_one_is(search, tiny_study, tmp_path):
    number, values = search.ask()
    before = (tmp_path / JOURNAL).read_bytes()
    with no_file_above(len(before) + 20), pytest.raises(OSError, match="too large"):
        search.tell(number, "complete", METRICS)
    assert (tmp_path / JOURNAL).read_bytes() == before
    again = StudySearch(tiny_study(), tmp_path)
    assert again.unfinished() == [(number, values)]
    again.tell(number, "complete", METRICS)
    assert again.ask()[0] == number + 1
