"""Which driver hands out trials, and when one is closed."""

import pytest

from ddcal.study.run.driver import STOP
from ddcal.study.run.in_turn.relay import Relay


class Driver:
    """Has some trials to hand out."""

    def __init__(self, study, directory, trials):
        self.study, self.directory, self.left, self.running = study, directory, trials, 0
        directory.mkdir()

    @property
    def exhausted(self):
        return self.left == 0

    def hand_out(self):
        self.left, self.running = self.left - 1, self.running + 1


@pytest.fixture
def drivers(tiny_study, tmp_path):
    study = tiny_study(search={"trials": 3, "concurrency": 2})
    return [Driver(study, tmp_path / name, 2) for name in "abc"]


def test_the_next_begins_when_one_has_no_more_and_is_closed_when_its_last_trial_has_ended(drivers):
    first, second, third = drivers
    closed, waiting = [], [second, third]
    relay = Relay(first, lambda: waiting.pop(0) if waiting else None, closed.append)
    for _ in range(2):
        assert relay.handing_out() is first and not relay.full
        first.hand_out()
    assert relay.full and relay.open == [first], "nobody looks for another study before there is room"
    first.running -= 1
    relay.settle()
    assert relay.handing_out() is second and relay.open == [first, second] and closed == []
    second.hand_out()
    assert relay.full and relay.running == 2
    first.running -= 1
    relay.settle()
    assert closed == [first] and relay.open == [second]
    second.hand_out()
    second.running -= 2
    relay.settle()
    assert closed == [first], "the present one is closed by whoever has begun it, or when another begins"
    assert relay.handing_out() is third and closed == [first, second] and relay.present is third
    third.left = 0
    assert relay.handing_out() is None and relay.through and relay.open == [third]


def test_one_study_alone_needs_nobody(drivers):
    relay = Relay(drivers[0])
    drivers[0].left = 0
    assert relay.handing_out() is None and relay.through and relay.present is drivers[0]


def test_a_driver_that_cannot_be_closed_is_named(drivers):
    def closing(driver):
        raise OSError("full")

    relay = Relay(drivers[0], lambda: drivers[1], closing)
    drivers[0].left = 0
    with pytest.raises(OSError, match="full"):
        relay.handing_out()
    assert relay.failed is drivers[0] and relay.open == [drivers[1]]


def test_all_workers_are_told_to_stop_and_no_longer_when_it_is_over(drivers):
    first, second, _ = drivers
    (second.directory / STOP).touch()
    relay = Relay(first, lambda: second)
    first.left = 0
    first.running = 1
    assert relay.handing_out() is second and not (second.directory / STOP).exists(), "one that was left there"
    relay.stop()
    assert all((driver.directory / STOP).exists() for driver in (first, second))
    first.running = 0
    relay.settle()
    assert not (first.directory / STOP).exists(), "nor is one left in a study that is closed"
    relay.forget_stop()
    assert not (second.directory / STOP).exists()
