"""A Ray that does not start: tried once more, then one sentence; and programs that get no memory."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from ddcal.errors import ResourceError, StoreError, Terminated
from ddcal.study.run import ray_start
from ddcal.study.run.ray_start import Head, start_ray

DDCAL = [sys.executable, "-c", "from ddcal.cli import main; main()"]

RAYLET = """
import sys
from pathlib import Path
from ray._private import services
services.RAYLET_EXECUTABLE = sys.argv.pop(1)
from ddcal.cli import main
main()
"""


def ray_that(*errors):
    """In the place of Ray: every start raises the next error."""
    left = list(errors)
    calls = []

    def init(**options):
        calls.append(options)
        if left and (error := left.pop(0)):
            raise error

    return SimpleNamespace(init=init, shutdown=lambda: None, calls=calls)


def test_it_is_tried_once_more():
    slow = Exception("The current node timed out during startup. This could happen because\nof much")
    ray = ray_that(slow, None)
    start_ray(ray, {"num_cpus": 1})
    assert ray.calls == [{"num_cpus": 1}] * 2
    with pytest.raises(ResourceError, match=r"did not start, 2 times \(The current node timed .*because\); .*--debug"):
        start_ray(ray_that(slow, slow), {})


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        ImportError("libray.so: failed to map segment from shared object"),
        MemoryError(),
    ],
)
def test_without_memory_it_is_not_tried_again(error):
    ray = ray_that(error)
    with pytest.raises(ResourceError, match=r"get no memory .*ulimit -v"):
        start_ray(ray, {})
    assert len(ray.calls) == 1


def test_sigterm_meanwhile_ends_the_start_and_keeps_its_handler():
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def init(**options):  # as ray.init does
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(signum))
        handlers.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        sys.exit(15)

    with pytest.raises(Terminated) as found:
        start_ray(SimpleNamespace(init=init), {})
    assert found.value.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    assert handlers[0] >= {signal.SIGTERM, signal.SIGHUP}, "what Ray starts does not hear them"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGHUP}


def test_a_limit_on_memory_that_torch_does_not_fit_into_is_one_sentence(write_study, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20))

    result = subprocess.run(
        [*DDCAL, "run", str(write_study()), "--output", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=600, preexec_fn=limit, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert "gives the program no memory" in result.stderr and "ulimit -v" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 9])
def test_a_raylet_that_ends_at_once(write_study, tmp_path, times):
    """Ray gives it half a minute each time."""
    from ray._private import services

    raylet = tmp_path / "raylet"
    raylet.write_text(
        f'#!/bin/sh\necho >> "{tmp_path}/starts"\n'
        f'[ $(wc -l < "{tmp_path}/starts") -le {times} ] && exit 1\nexec {services.RAYLET_EXECUTABLE} "$@"\n'
    )
    raylet.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run(
        [sys.executable, "-c", RAYLET, str(raylet), "run", str(write_study(search={"trials": 1})),
         "--output", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=400, env=environment,
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    assert "Ray did not start (The current node timed out" in result.stderr and ": once more" in result.stderr
    if times == 1:
        assert result.returncode == 0 and "1 complete" in result.stdout, result.stderr
    else:
        assert result.returncode == 2 and "did not start, 2 times" in result.stderr
        assert (tmp_path / "starts").read_text().count("\n") == 2


@pytest.fixture
def head(monkeypatch):
    """A head that listens, and one that has ended: what watches them, and how to end the first."""
    for name in ("KNOCK_SECONDS", "LOST_SECONDS", "SAVE_SECONDS"):
        monkeypatch.setattr(ray_start, name, 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = SimpleNamespace(gcs_address=f"127.0.0.1:{server.getsockname()[1]}")
        yield Head(SimpleNamespace(get_runtime_context=lambda: context)), server.close


def test_a_lost_head_is_told_to_workers_and_then_the_study_is_abandoned(head):
    watch, end = head
    told, abandoned = threading.Event(), []
    over = threading.Event()

    def abandon(error):
        assert told.is_set()
        abandoned.append(error)
        over.set()

    with watch.watched(told.set, abandon):
        assert not over.wait(0.5), "it answers"
        end()
        assert over.wait(120)
    (error,) = abandoned
    assert str(error) == f"Ray's head at {watch.address} does not answer any more" and "start Ray again" in error.cure


def test_what_ray_raises_over_a_lost_head_is_one_sentence(head):
    watch, end = head
    with pytest.raises(RuntimeError, match="of its own"), watch.watched(lambda: None, lambda error: None):
        raise RuntimeError("of its own")
    end()
    with pytest.raises(StoreError, match="does not answer"), watch.watched(lambda: None, lambda error: None):
        raise RuntimeError("GCS is gone")
