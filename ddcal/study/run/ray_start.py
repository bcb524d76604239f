"""Starting Ray on this machine: once more if it does not come up, and one sentence if that does not help."""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ddcal.errors import ResourceError, Terminated, memory_error

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
