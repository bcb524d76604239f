"""How workers are told to stop that do not see the driver's folder, on a real Ray."""

import threading
import time

import pytest

from ddcal.study.remote.stop_signal import SignalledToStop, signal_actor, stop_signal

MOST_SECONDS = 600


def asking():
    """Return what a worker does: it asks again and again, and returns how often it was told to go on."""

    def ask_until_told(name, sign=None):  # inside a function it is sent by value: a worker does not find this file
        signalled, asked, until = SignalledToStop(name), 0, time.monotonic() + MOST_SECONDS
        while not signalled():
            assert time.monotonic() < until, "nobody was told"
            asked += 1
            if sign is not None:
                sign.touch()
            time.sleep(0.05)
        return asked

    return ask_until_told


@pytest.mark.slow
def test_every_worker_is_told_and_one_that_asks_later_too(ray_session, tmp_path):
    signs = [tmp_path / "one", tmp_path / "other"]
    asked = threading.Event()
    worker = ray_session.remote(num_cpus=0)(asking())
    with stop_signal(ray_session, asked.is_set) as name:
        here, workers = SignalledToStop(name), [worker.remote(name, sign) for sign in signs]
        until = time.monotonic() + MOST_SECONDS
        while not all(sign.exists() for sign in signs):
            assert time.monotonic() < until, "they do not ask"
            time.sleep(0.05)
        assert not here()
        done, _ = ray_session.wait(workers, timeout=1.0)
        assert not done
        asked.set()
        assert min(ray_session.get(workers, timeout=MOST_SECONDS)) > 0
        asking()(name)
        assert here(), "it was asked long before"


def test_two_drivers_tell_their_own_workers_alone(ray_session):
    with stop_signal(ray_session, lambda: True) as name, stop_signal(ray_session, lambda: False) as other:
        there = SignalledToStop(other)
        assert not there()
        asking()(name)
        assert not there()


def test_nobody_to_ask_is_no_reason_to_stop(ray_session):
    assert not SignalledToStop("stop-nobody")()


def test_an_actor_that_has_died_is_asked_anew_where_it_was_started_again(ray_session):
    options = {"name": "stop-again", "namespace": "ddcal", "num_cpus": 0, "max_restarts": 1}
    actor = ray_session.remote(signal_actor()).options(**options).remote()
    signalled = SignalledToStop("stop-again")
    assert not signalled()
    ray_session.kill(actor, no_restart=False)
    until = time.monotonic() + MOST_SECONDS
    told = False
    while not told and time.monotonic() < until:
        actor.give.remote()
        time.sleep(0.1)
        told = signalled()
    assert told
