"""``torch.compile`` for loops of first derivatives: whether this machine can, where compiled code is kept, and how.

What is computed must not depend on what a process has seen before: each batch size is compiled for itself, and nothing
is chosen by a measurement. Loops that differentiate a gradient cannot be compiled; they stay as they are.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ddcal.errors import ResourceError

if TYPE_CHECKING:
    from torch import Tensor, nn

WORTH = 0.5
"""A last, smaller batch is compiled for if it is at least this share of a whole one."""

MANY = 10_000
"""Forms of one function that a process may compile: beyond its limit torch would go on without compiling."""


def compiler_problem() -> str | None:
    """Return what torch.compile lacks on this machine and how to get it; None if it has all. Imports no torch."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler}) here: install one (`apt install g++`), or name it in $CXX"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"Python's headers are not here ({header}): install them (`apt install python3-dev`)"
    return None


def compile_folder(threads: int) -> Path:
    """Return where this user's compiled code lies: one folder a machine type, torch version and thread count.

    Args:
        threads: torch's thread count, which is written into the code.
    """
    import torch

    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ddcal" / "compile"
    machine = f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability().replace(' ', '')}"
    return home / f"{machine}-torch{torch.__version__}-{threads}".lower()


def prepare_compiling(threads: int) -> None:
    """Have this process compile into the user's own folder, without processes of its own and without measurements.

    Args:
        threads: torch's thread count.

    Raises:
        ResourceError: if this machine cannot compile, or others may write into the folder: what lies there is executed.
    """
    if problem := compiler_problem():
        raise ResourceError(f"resources.compile: {problem}, or set it to false")
    folder = compile_folder(threads)
    _make_private(folder.parent)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)  # torch takes it from nowhere else
    import torch._dynamo.config
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1
    torch._inductor.config.deterministic = True  # a GPU's kernels are not chosen by their speed
    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = MANY


def compile_network(network: nn.Module) -> None:
    """Have calls of a network compiled at their first use, each batch size for itself; its weights stay as they are."""
    network.compile(dynamic=False)


def compiled_call(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function of a batch that is compiled at its first use, each batch size for itself."""
    import torch

    compiled: Callable[[Tensor], Tensor] = torch.compile(call, dynamic=False)
    return compiled


def call_network(network: nn.Module, images: Tensor, whole: int) -> Tensor:
    """Return the logits of a batch; one that is much smaller than a whole one is not compiled for.

    Args:
        network: Compiled or not.
        images: The batch, (N, C, H, W).
        whole: Images of a whole batch.
    """
    if is_compiled(network) and len(images) < WORTH * whole:
        network = network.forward  # type: ignore[assignment] # the call as it is written
    logits: Tensor = network(images)
    return logits


def is_compiled(network: nn.Module) -> bool:
    """Return whether `compile_network` was called on a network."""
    return getattr(network, "_compiled_call_impl", None) is not None


def _make_private(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)  # folders in it are torch's
        found = folder.stat()
    except OSError as error:
        raise ResourceError(
            f"resources.compile: {folder} cannot be made ({error.strerror}): set $XDG_CACHE_HOME to a folder that can "
            "be written, or set it to false"
        ) from error
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ResourceError(
            f"resources.compile: {folder} belongs to another or can be written by others, and code in it is executed: "
            "remove it, or set $XDG_CACHE_HOME to a folder of your own"
        )
