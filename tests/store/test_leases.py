"""Leases on a file system: taken once, given back, and ended with their holder; and a trial that waits for one."""

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ddcal.pipeline import TrialRunner, open_store
from ddcal.pipeline.upkeep import DAY, prune_store
from ddcal.store.leases import FileLeases, FreeLease, open_leases
from ddcal.store.lock_holder import Holder

KEY = "ab" * 32
HOLD = """
import sys, time
from pathlib import Path
from ddcal.store.leases import FileLeases
leases = FileLeases(Path(sys.argv[1]), beat=float(sys.argv[3]))
lease = leases.take(sys.argv[2])
print(type(lease).__name__, flush=True)
for line in sys.stdin:
    lease.release()
    print("released", flush=True)
"""


@contextlib.contextmanager
def other_process(root, key=KEY, beat=0.05):
    """A process that holds a lease; ends it with a line on its stdin."""
    command = [sys.executable, "-c", HOLD, str(root), key, str(beat)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline().strip() == "_FileLease"
            yield process
        finally:
            process.kill()


def release(process):
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "released\n"


def path(root):
    return root / "leases" / f"{KEY}.json"


def test_a_lease_is_taken_given_back_and_taken_again(tmp_path):
    leases = FileLeases(tmp_path)
    assert not leases.held(KEY)
    lease = leases.take(KEY)
    assert path(tmp_path).exists()
    lease.release()
    lease.release()
    assert not path(tmp_path).exists()
    with other_process(tmp_path) as other:
        assert leases.take(KEY) is None and leases.held(KEY)
        assert not isinstance(leases.take("cd" * 32), FreeLease)
        release(other)
        assert not leases.held(KEY)
        assert not isinstance(leases.take(KEY), FreeLease | None)


def test_a_process_does_not_wait_for_itself(tmp_path):
    first = FileLeases(tmp_path).take(KEY)
    assert isinstance(FileLeases(tmp_path).take(KEY), FreeLease) and not FileLeases(tmp_path).held(KEY)
    first.release()


def test_a_lease_that_is_forgotten_is_given_back(tmp_path):
    FileLeases(tmp_path).take(KEY)
    gc.collect()
    assert not path(tmp_path).exists()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_has_no_lease_at_once(sign, tmp_path):
    with other_process(tmp_path) as other:
        other.send_signal(sign)
        other.wait(300)
        assert path(tmp_path).exists(), "it could not give it back"
        assert not FileLeases(tmp_path).held(KEY)
        assert not isinstance(FileLeases(tmp_path).take(KEY), FreeLease | None)


def foreign(root, **changes):
    """A lease file as a process of another machine leaves it."""
    holder = {**vars(Holder.here()), "host": "elsewhere", "token": "t", **changes}
    path(root).parent.mkdir(parents=True, exist_ok=True)
    path(root).write_text(json.dumps(holder))


@pytest.mark.parametrize("ahead", [16.0, 3600.0, 1e9])
def test_a_lease_from_the_future_has_ended(ahead, tmp_path):
    """A clock that was set back, or a file that was unpacked, says nothing of a holder: that one would beat."""
    foreign(tmp_path)
    leases = FileLeases(tmp_path, expiry=15.0)
    for there, held in ((5.0, True), (ahead, False)):
        os.utime(path(tmp_path), (time.time() + there,) * 2)
        assert leases.held(KEY) is held
    assert not isinstance(leases.take(KEY), FreeLease | None)


@pytest.mark.parametrize("content", [None, "", "{", "null", "[]"], ids=["foreign", "empty", "half", "null", "list"])
def test_of_a_holder_elsewhere_only_the_silence_counts(content, tmp_path):
    foreign(tmp_path)
    if content is not None:
        path(tmp_path).write_text(content)
    leases = FileLeases(tmp_path, expiry=15.0)
    assert leases.held(KEY) and leases.take(KEY) is None
    silent = time.time() - 16
    os.utime(path(tmp_path), (silent, silent))
    assert not leases.held(KEY)
    assert not isinstance(leases.take(KEY), FreeLease | None)


def test_beats_keep_a_slow_holder_s_lease_alive_and_a_stopped_one_loses_it(tmp_path):
    leases = FileLeases(tmp_path, expiry=1.0)
    with other_process(tmp_path) as other:
        text = json.loads(path(tmp_path).read_text())
        path(tmp_path).write_text(json.dumps({**text, "host": "elsewhere"}))  # in place: it goes on beating
        for _ in range(8):
            assert leases.held(KEY) and leases.take(KEY) is None
            time.sleep(0.25)
        other.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 300
        while leases.held(KEY):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        mine = leases.take(KEY)
        other.send_signal(signal.SIGCONT)
        before = path(tmp_path).stat()
        release(other)
        assert path(tmp_path).stat() == before, "neither touched nor removed by the former holder"
        mine.release()


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_the_clock_of_the_machine_does_not_matter(skew, tmp_path, monkeypatch):
    with other_process(tmp_path):
        text = json.loads(path(tmp_path).read_text())
        path(tmp_path).write_text(json.dumps({**text, "host": "elsewhere"}))
        monkeypatch.setattr(time, "time", lambda ask=time.time: ask() + skew)
        assert FileLeases(tmp_path).held(KEY) and FileLeases(tmp_path).take(KEY) is None


def test_of_many_waiters_for_a_dead_lease_at_least_one_computes(tmp_path):
    """Two at once would be a waste, not a fault; none would be one."""
    for _ in range(20):
        foreign(tmp_path, host=socket.gethostname(), pid=2**22 + 1)
        taken, barrier = [], threading.Barrier(4)

        def wait(taken=taken, barrier=barrier):
            barrier.wait()
            taken.append(FileLeases(tmp_path).take(KEY))

        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert any(not isinstance(lease, FreeLease | None) for lease in taken)
        for lease in taken:
            if lease is not None:
                lease.release()
        assert list((tmp_path / "leases").iterdir()) == []


def test_another_container_of_this_machine_is_not_proved_dead():
    here = vars(Holder.here())
    assert Holder(**{**here, "pid": 2**22 + 1}).dead
    assert not Holder(**{**here, "pid": 2**22 + 1, "namespace": "pid:[1]"}).dead
    assert Holder(**{**here, "namespace": "pid:[1]", "boot": "earlier"}).dead
    assert Holder(**{name: here[name] for name in ("host", "boot", "started")}, pid=2**22 + 1).dead, "an older note"


def test_where_leases_cannot_be_kept_everybody_computes(tmp_path):
    (tmp_path / "leases").write_text("a file")
    assert isinstance(FileLeases(tmp_path).take(KEY), FreeLease) and not FileLeases(tmp_path).held(KEY)


def test_prune_spares_the_checkpoint_of_a_leased_stage(tmp_path):
    store = open_store(tmp_path)
    store.save_partial(KEY, {})
    with other_process(tmp_path):
        prune_store(store, set(), now=time.time() + DAY / 2)
        old = time.time() - 2 * DAY
        os.utime(tmp_path / "partial" / f"{KEY}.pt", (old, old))
        prune_store(store, set())
        assert store.load_partial(KEY) == {}
    prune_store(store, set())
    assert store.load_partial(KEY) is None


# A trial that waits


@pytest.fixture
def start(make_trial, environment, datasets):
    def make(root, **changes):
        return TrialRunner(make_trial(**changes), open_store(root), environment, datasets=datasets)

    return make


def test_a_trial_waits_then_takes_what_the_other_published(tmp_path, start, make_trial, caplog):
    made = start(tmp_path / "other")
    key = made.keys["distill"]
    while "distill" not in made.entries:
        made.advance()
    runner = start(tmp_path)
    with other_process(tmp_path, key) as other:
        with caplog.at_level(logging.INFO, "ddcal"):
            for _ in range(3):
                advance = runner.advance()
                assert advance.waiting and advance.point is None and advance.progress == 0.0
        assert caplog.text.count("distill: waits") == 1

        def copy(folder):
            for name in made.entries["distill"].files:
                (folder / name).write_bytes((made.entries["distill"].folder / name).read_bytes())
            return made.entries["distill"].meta

        open_store(tmp_path).publish("distill", key, copy)
        advance = runner.advance()
        assert not advance.waiting and advance.cached
        assert runner.cache_hits == ["distill"] and runner.waited >= 0.6
        release(other)


def test_a_waiter_goes_on_when_the_holder_is_killed(tmp_path, start, caplog):
    runner = start(tmp_path)
    with other_process(tmp_path, runner.keys["distill"]) as other:
        assert runner.advance().waiting
        other.kill()
        other.wait(300)
        with caplog.at_level(logging.INFO, "ddcal"):
            advance = runner.advance()
        assert not advance.waiting and advance.progress > 0
        assert "the other process has ended without it" in caplog.text
        assert (tmp_path / "leases" / f"{runner.keys['distill']}.json").exists(), "now it is this one's"
    runner.close()
    assert list((tmp_path / "leases").iterdir()) == []


@pytest.mark.parametrize("end", ["close", "error", "done"])
def test_a_lease_ends_with_its_runner_s_work(end, tmp_path, start, monkeypatch):
    runner = start(tmp_path)
    folder = tmp_path / "leases"
    runner.advance()
    assert [file.name for file in folder.iterdir()] == [f"{runner.keys['distill']}.json"]
    if end == "close":
        runner.close()
        assert open_store(tmp_path).load_partial(runner.keys["distill"]) is not None
    elif end == "error":
        monkeypatch.setattr(type(runner._work), "step", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            while True:
                runner.advance()
    else:
        while not runner.done:
            runner.advance()
    assert list(folder.iterdir()) == []


def test_a_closed_runner_goes_on_and_takes_the_lease_again(tmp_path, start):
    runner = start(tmp_path)
    runner.advance()
    runner.close()
    runner.advance()
    assert len(list((tmp_path / "leases").iterdir())) == 1
    runner.close()


def test_on_s3_without_ray_there_are_no_leases():
    leases = open_leases(open_store("s3://bucket/prefix"))
    assert isinstance(leases.take(KEY), FreeLease) and not leases.held(KEY)


def test_what_a_stage_took_is_noted(tmp_path, make_trial, environment, datasets):
    def run(gpu):
        runner = TrialRunner(make_trial(), open_store(tmp_path), environment, datasets=datasets, gpu=gpu)
        while not runner.done:
            runner.advance()
        return runner

    assert set(run(0.25).gpus.values()) == {0.25}
    again = run(0.0)
    assert set(again.gpus.values()) == {0.25} and len(again.cache_hits) == 4 and again.waited == 0.0
