"""On what is measured: packages that must be there, the GPU, its driver, versions, the commit."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "safetensors": "safetensors",
    "yaml": "PyYAML",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
}
"""Module → package, with what pydantic needs. Neither ray nor mlflow, optuna, kornia, pandas or scikit-learn."""
NEEDED_FOR_DATA = {"torchvision": "torchvision", "PIL": "pillow"}


def missing_packages(data: bool) -> list[str]:
    """Return the packages that this Python lacks.

    Args:
        data: Whether CIFAR-10 is to be read.
    """
    needed = NEEDED | (NEEDED_FOR_DATA if data else {})
    return [package for module, package in needed.items() if importlib.util.find_spec(module) is None]


def measure(task: object) -> Iterator[dict[str, object]]:
    """Yield one row: the GPU (None where torch sees none), driver, versions and the commit."""
    import torch

    from measuring.task import Task

    assert isinstance(task, Task)
    row: dict[str, object] = {
        "name": "machine",
        "gpu": None,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "triton", "numpy", "safetensors", "pydantic")},
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
        "commit": _told(["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]),
        "driver": _told(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
    }
    if not task.pretended and not torch.cuda.is_available():
        yield row
        return
    with task.on_the_device():
        free, total = torch.cuda.mem_get_info()
        torch.ones(1, device="cuda").add_(1.0)
        torch.cuda.synchronize()
        row |= {"gpu": torch.cuda.get_device_name(), "memory": total, "free": free}
        if not task.pretended:
            properties = torch.cuda.get_device_properties(0)
            row |= {
                "capability": f"{properties.major}.{properties.minor}",
                "multiprocessors": properties.multi_processor_count,
                "cudnn": torch.backends.cudnn.version(),
                "taken_by_others": total - torch.cuda.mem_get_info()[0] - torch.cuda.memory_reserved(),
            }
    yield row


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or sys.platform
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _told(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None
