"""Starting Ray on this machine: once more if it does not come up, and one sentence if that does not help."""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddcal.errors import ResourceError, StoreError, Terminated, memory_error

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""On a busy machine Ray's processes now and then do not find each other within the time that Ray gives them."""

WITHOUT = "`--debug` runs the trials one after another without Ray"


def start_ray(ray: Any, options: dict[str, Any]) -> None:
    """Start Ray with the options of ``ray.init``.

    Raises:
        ResourceError: if it does not come up, or this machine has no memory for it.
        OSError: if its files cannot be written.
        Terminated: on SIGTERM meanwhile.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with own_signals():
                ray.init(**options)
            return
        except Exception as error:
            if memory_error(error):
                raise _no_memory(error) from error
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if type(error).__name__ == "AuthenticationError":  # younger than the oldest Ray that ddcal takes
                raise
            failure = error
        with suppress(Exception):
            ray.shutdown()
        said = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
        if attempt == ATTEMPTS:
            raise ResourceError(
                f"no Ray on this machine: it did not start, {ATTEMPTS} times ({said[:200]}); is the machine very busy, "
                f"or short of memory (`ulimit -v`)? Try again later; {WITHOUT}"
            ) from failure
        logger.warning("Ray did not start (%s): once more", said[:200])


def _no_memory(error: Exception) -> ResourceError:
    return ResourceError(
        f"no Ray on this machine: its processes get no memory ({error}); raise the limit (`ulimit -v unlimited`, or "
        f"the job's) or free some; {WITHOUT}"
    )


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep what SIGTERM does over a call of ``ray.init``, which makes it a dump of the stack.

    The processes that Ray starts meanwhile do not hear SIGTERM, SIGUSR1 and SIGHUP (of SIGINT Ray sees to that itself):
    `timeout`, SLURM and service managers send them to every process, and trials could save nothing without their Ray.
    They end with this process, or by `end_ray`.

    Raises:
        Terminated: if SIGTERM came meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
    try:
        yield
    except SystemExit as error:  # by Ray's handler, if another thread took the signal
        raise Terminated(signal.SIGTERM, goes_on=True) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


KNOCK_SECONDS = 5.0
"""How often it is looked whether Ray's head is there."""

LOST_SECONDS = 30.0
"""After so long without an answer a head is lost. At 60 seconds Ray ends the process, without a word to Python."""

SAVE_SECONDS = 5.0
"""How long workers that are still there then have to save their state."""


class Head:
    """Watches the head of the Ray that this process is connected to.

    Whoever waits for a Ray without a head waits in C++, and no exception reaches it there.

    Attributes:
        address: Its address, ``host:port``.
    """

    def __init__(self, ray: Any) -> None:
        """Take the head of the Ray that ``ray`` is connected to."""
        self.address = str(ray.get_runtime_context().gcs_address)
        self._over = threading.Event()

    def error(self) -> StoreError:
        """Return what a lost head is told as."""
        said = f"Ray's head at {self.address} does not answer any more"
        return StoreError(said, "start Ray again, there or elsewhere")

    @contextmanager
    def watched(self, on_lost: Callable[[], None], abandon: Callable[[StoreError], None]) -> Iterator[None]:
        """Watch the head while the context lasts.

        Args:
            on_lost: Called as it is lost, in another thread.
            abandon: Called `SAVE_SECONDS` later, in that thread, with what to tell; it ends the process.

        Raises:
            StoreError: if Ray has raised something and the head does not answer.
        """
        thread = threading.Thread(target=self._watch, args=(on_lost, abandon), name="ddcal-head", daemon=True)
        thread.start()
        try:
            yield
        except Exception as error:
            if self._answers():
                raise
            raise self.error() from error
        finally:
            self._over.set()
            thread.join()

    def _watch(self, on_lost: Callable[[], None], abandon: Callable[[StoreError], None]) -> None:
        answered = time.monotonic()
        while not self._over.wait(KNOCK_SECONDS):
            if self._answers():
                answered = time.monotonic()
            elif time.monotonic() - answered > LOST_SECONDS:
                with suppress(OSError):
                    on_lost()
                if not self._over.wait(SAVE_SECONDS):
                    abandon(self.error())
                return

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
            return True
        except OSError:
            return False


def end_ray(ray: Any) -> None:
    """Shut down the Ray that this process has started or connected to.

    Ray asks each of its processes to end with SIGTERM, which they do not hear (`own_signals`), and kills it a second
    later; here it is killed as soon as it was asked, and what is left at the end too.
    """
    psutil = importlib.import_module("psutil")  # Ray brings it
    children = [child for child in psutil.Process().children(recursive=True) if _has_sigterm(child.pid, "SigBlk")]
    over = threading.Event()

    def kill() -> None:
        ended = False
        while not ended:
            ended = over.wait(0.02)
            for child in children:
                with suppress(psutil.Error):
                    if child.is_running() and (ended or _has_sigterm(child.pid, "ShdPnd")):
                        child.kill()

    thread = threading.Thread(target=kill, name="ddcal-end-ray", daemon=True)
    thread.start()
    try:
        ray.shutdown()
    finally:
        over.set()
        thread.join()


def _has_sigterm(pid: int, signals: str) -> bool:
    """Whether SIGTERM is among a process's blocked (``SigBlk``) or pending (``ShdPnd``) signals."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{signals}:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False
