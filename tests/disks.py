"""Disks that take no more or know no locks, and little memory: file systems of their own, limits, a filter of calls."""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import shutil
import struct
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A mounted tmpfs."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self, leave=0):
        """Take all space but ``leave`` bytes; `free` gives it back."""
        with (self.folder / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        os.truncate(self.folder / "filler", max(0, (self.folder / "filler").stat().st_size - leave))

    def fill_inodes(self):
        """Make files until there can be no more; `free` removes them."""
        (self.folder / "files").mkdir()
        with contextlib.suppress(OSError):
            for number in range(100_000):
                (self.folder / "files" / str(number)).touch()

    def free(self):
        """Give back what was taken."""
        (self.folder / "filler").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "files", ignore_errors=True)

    def remount(self, how):
        """``ro``, ``rw``, ``nr_inodes=N``, ``size=N``."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True, timeout=300)


@contextlib.contextmanager
def small_disk(folder, size="256k", inodes=0):
    """Mount a tmpfs at ``folder``; skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},nr_inodes={inodes}"
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True, timeout=300
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no right to mount: {error}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=300)


@contextlib.contextmanager
def no_file_above(size):
    """No file can grow above ``size`` bytes: what is above it fails with EFBIG, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def memory_for(more):
    """This process gets no more than so many bytes of memory, beside what it has."""
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        pytest.skip("the kernel does not say how much memory a process has")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


FLOCK = {"x86_64": 73, "aarch64": 32}
"""The number of the system call, by machine."""


def without_flock():
    """From now on the kernel refuses this process and its children flock, as a file system without locks does."""

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    steps = (
        (0x20, 0, 0, 0),  # load the call's number
        (0x15, 0, 1, FLOCK[platform.machine()]),  # go on if it is flock's, else leave out one
        (0x06, 0, 0, 0x00050000 | errno.ENOLCK),  # refuse
        (0x06, 0, 0, 0x7FFF0000),  # allow
    )
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code)
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(38, 1, 0, 0, 0)  # no new rights, without which a filter is refused
    if library.prctl(22, 2, ctypes.byref(Filter(len(steps), ctypes.addressof(held))), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter")
