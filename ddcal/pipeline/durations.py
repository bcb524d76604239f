"""Seconds as a person says them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return seconds as a person says it: ``48 s``, ``7.5 min``, ``3.2 h``, ``4.1 days``."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 100):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
