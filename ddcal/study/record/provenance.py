"""What a ledger says of the code that runs here: versions and the git commit; and which version wrote something."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from ddcal import __version__
from ddcal.versions import package_versions


def installed() -> dict[str, Any]:
    """Return what a ledger says of the packages here: ``versions`` and ``git_commit``."""
    return {"versions": package_versions(), "git_commit": git_commit()}


def git_commit() -> str | None:
    """Return the commit of ddcal's source tree (with ``+changes`` if it was edited), or None outside one."""
    source = Path(__file__).absolute().parents[3]
    if not (source / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(source), "status", "--porcelain", "--", "ddcal"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def written_by(version: Any) -> str:
    """Return, of something that this version cannot read, which version wrote it and which one to install.

    Args:
        version: The version as what cannot be read states it, if it does; named only if it is newer than this one.
    """
    if isinstance(version, str) and re.fullmatch(r"\d[\w.+!-]{0,39}", version, re.ASCII) and _newer(version):
        return f"written by ddcal {version}, this is {__version__}: install {version} or a newer one"
    return f"written by another version of ddcal, this is {__version__}: install the one that wrote it"


def _newer(version: str) -> bool:
    return _release(version) > _release(__version__)


def _release(version: str) -> list[int]:
    """Return the numbers that a version begins with, without zeros at the end: [0, 2] of 0.2.0.dev3."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers
