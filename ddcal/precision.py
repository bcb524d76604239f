"""How a process rounds and in which order it adds, said outright: torch's own defaults differ from device to device.

Nothing is changed on import: what computes calls these functions first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32"]

CUBLAS_WORKSPACE = ":4096:8"
"""Eight buffers of 4 MiB: with a fixed workspace cuBLAS gives the same bits every time."""


def state_precision(precision: Precision = "float32") -> None:
    """State in which precision this process multiplies float32 numbers; a second call changes it.

    Args:
        precision: ``float32`` rounds nothing further. With ``tf32`` a GPU's convolutions round what they multiply to 10
            bits of fraction, as cuDNN does where nothing is said; matrix products, and all that a CPU does, stay exact.

    Raises:
        ValueError: for another precision.
    """
    import torch

    if precision not in ("float32", "tf32"):
        raise ValueError(f"precision is {precision!r}; it must be one of float32, tf32")
    tf32 = precision == "tf32"
    backends: Any = torch.backends  # these settings are made at run time, where mypy does not see them
    cudnn, cpu, matmul = backends.cudnn, backends.mkldnn, backends.cuda.matmul
    # The older names first: reading one of them is an error where it disagrees with the newer ones.
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = tf32
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32" if tf32 else "ieee"
    matmul.fp32_precision = cpu.conv.fp32_precision = cpu.matmul.fp32_precision = "ieee"


def adds_in_any_order(device: torch.device) -> bool:
    """Return whether the backwards of `grid_sample` and `interpolate` add in any order there: other forms are taken.

    Of Apple's GPUs too: torch 2.11 has no such backward there.
    """
    return device.type != "cpu"


def state_determinism(device: object) -> None:
    """Have this process compute on a GPU with algorithms that give the same bits every time; for the CPU do nothing.

    An operation that has no such algorithm warns once and goes on: ddcal's own have one, a user's network may not.

    Args:
        device: Where is computed, ``"cpu"`` or ``"cuda"``, or a ``torch.device``.
    """
    if str(device).partition(":")[0] != "cuda":
        return
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)  # cuBLAS reads it when it is first used
    if not torch.are_deterministic_algorithms_enabled():  # the call imports much
        torch.use_deterministic_algorithms(True, warn_only=True)
        utilities: Any = torch.utils
        utilities.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
