"""The versions of the packages that are installed here, and which of them can change a trial's numbers."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

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


@functools.cache  # what this process has imported is what computes, whatever is installed meanwhile
def computing_versions() -> dict[str, str]:
    """Return package → version of those that compute a stage, but for ddcal: its versions are in the stage's key."""
    return {name: number for name, number in package_versions().items() if name in NUMERIC_PACKAGES and name != "ddcal"}
