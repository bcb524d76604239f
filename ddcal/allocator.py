"""Memory that torch frees stays with the process while it computes, and goes back to the system between trials.

glibc gives every large block back at once, so that each step of a training maps its activations anew: measured, a
quarter of an evaluation epoch's time on a CPU is the kernel's, clearing pages. Elsewhere than on glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import functools
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of ``mallopt``, from ``malloc.h``."""

KEPT_BYTES = 2**30
"""Blocks below this size come from the heap, and so much may lie free at its end."""


@functools.cache
def keep_freed_memory() -> bool:
    """Have this process keep what it frees; return whether the C library can. A second call does nothing."""
    library = _glibc()
    if library is None:
        return False
    kept = [library.mallopt(parameter, KEPT_BYTES) for parameter in (MMAP_THRESHOLD, TRIM_THRESHOLD)]
    return all(kept)


def give_memory_back() -> None:
    """Give what lies free in this process back to the system, where the C library can."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
