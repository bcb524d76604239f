"""Facts about this machine that decide whether a run can be replayed: versions and the git commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ddcal", "torch", "torchvision", "kornia", "numpy", "scikit-learn", "scipy", "optuna", "ray", "mlflow")
NUMERIC_PACKAGES = ("ddcal", "torch", "torchvision", "kornia", "numpy", "scikit-learn", "scipy")
"""Those whose version can change a trial's numbers."""


def package_versions() -> dict[str, str]:
    """Return package → version of what is installed, with Python's own."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


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
