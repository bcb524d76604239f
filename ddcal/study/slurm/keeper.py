"""Runs a command until its own standard input closes, and then kills everything that the command has started.

A task of a SLURM job that is killed closes the pipe, so its Ray ends with it, also where SLURM tracks process groups
alone. Started as ``python -m ddcal.study.slurm.keeper COMMAND...``.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def keep(command: list[str]) -> NoReturn:
    """Run the command, with this process's own end as described; its exit code is this process's."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end_with_the_pipe() -> None:
        sys.stdin.read()
        end(process.pid)

    threading.Thread(target=end_with_the_pipe, daemon=True).start()
    code = process.wait()
    os._exit(code if code >= 0 else 1)  # the thread may still read


def end(pid: int) -> None:
    """Kill a process and everything below it: a Ray has nothing to save."""
    psutil = importlib.import_module("psutil")  # Ray brings it
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                one.kill()


if __name__ == "__main__":
    keep(sys.argv[1:])
