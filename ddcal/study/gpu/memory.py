"""A process's share of a GPU's memory: the cap on torch's allocator, what stages hold at their peak, giving back."""

from __future__ import annotations

import gc
import traceback
from typing import Any

from ddcal.pipeline import Advance

CONTEXT_BYTES = 600 * 2**20
"""What a CUDA context is taken to need before one was measured: torch's lie between 300 and 600 MiB."""


class GpuMemory:
    """Caps and measures the device memory of one trial; on the CPU it does nothing.

    Several processes share a GPU only in name: neither Ray nor CUDA keeps them apart. The cap makes the one that takes
    more than its fraction run out of memory, and not its neighbours.
    """

    def __init__(self, device: str, fraction: float, context: int | None) -> None:
        """Give back what an earlier trial of this process has left, and set the cap, which else would be that one's.

        Args:
            device: ``"cpu"``, ``"cuda"``, or ``"mps"``, whose memory is the machine's own: nothing is capped there.
            fraction: The trial's share of the GPU; 1 and more, or 0 (not said), cap nothing.
            context: Bytes of a CUDA context, which the allocator does not know of; None if not measured.
        """
        self.device, self.fraction = device, fraction
        self._peaks: dict[str, int] = {}
        self._context: int | None = None
        self._ended: set[str] = set()
        self._cap = 0
        if device == "cpu":
            return
        import torch

        _empty_cache(device)
        if device == "mps":
            self._cap = torch.mps.recommended_max_memory()
            return
        total = torch.cuda.mem_get_info()[1]
        share = 1.0
        if 0.0 < fraction < 1.0:
            needed = CONTEXT_BYTES if context is None else context
            share = max(fraction - needed / total, 0.01)
        self._cap = int(share * total)
        torch.cuda.set_per_process_memory_fraction(share)
        torch.cuda.reset_peak_memory_stats()

    def note(self, advance: Advance, ended: bool) -> None:
        """Measure after a piece of work, where a stage has shown what it needs.

        Args:
            advance: The piece of work. A cached one has used no memory; between two points a stage has not yet done
                all kinds of its work.
            ended: Whether the stage is finished.
        """
        if self.device == "cpu" or advance.cached or not (ended or advance.point):
            return
        import torch

        stage = advance.stage
        if stage in self._ended:
            return
        apple = self.device == "mps"  # which keeps no peak
        reserved = torch.mps.driver_allocated_memory() if apple else torch.cuda.max_memory_reserved()
        self._peaks[stage] = max(reserved, self._peaks.get(stage, 0))
        if (
            self.fraction >= 1.0 and not apple
        ):  # nobody else is there: what the allocator does not know of is the context
            free, total = torch.cuda.mem_get_info()
            self._context = max(0, total - free - torch.cuda.memory_reserved())
        if ended:
            self._ended.add(stage)
            _empty_cache(self.device)
            if not apple:
                torch.cuda.reset_peak_memory_stats()  # the next stage begins from nothing

    def ran_out(self, stage: str) -> None:
        """Take running out of memory as a measurement: ``stage`` needs more than it may have."""
        if self.device != "cpu":
            self._peaks[stage] = max(self._cap, self._peaks.get(stage, 0))

    def measured(self) -> list[dict[str, Any]]:
        """Return what was measured, in a list as Tune flattens dictionaries; empty if nothing was computed."""
        if not self._peaks:
            return []
        import torch

        total = self._cap if self.device == "mps" else torch.cuda.mem_get_info()[1]
        return [{"total": total, "context": self._context, "peaks": dict(self._peaks)}]


def _empty_cache(device: str) -> None:
    import torch

    (torch.mps if device == "mps" else torch.cuda).empty_cache()


OUT_OF_MEMORY = (
    "MPS backend out of memory",
    *("CUDA error: out of memory", "CUDA driver error: out of memory", "HIP error: out of memory", "HIP out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED"),
)
"""How the libraries of a GPU say that its memory is used up."""

PERHAPS = (
    *("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_NOT_INITIALIZED"),
    "unable to find an engine to execute this computation",  # cuDNN's, where no workspace fits
)
"""How some say it, which may mean something else too: that there is little memory left decides."""

NEARLY = 0.05


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that the GPU's memory is used up, also where a CUDA library says so in its own words."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return any(word in said for word in OUT_OF_MEMORY) or (any(word in said for word in PERHAPS) and nearly_full())


def nearly_full() -> bool:
    """Return whether almost all that this process may have of its GPU's memory is taken."""
    import torch

    free, total = torch.cuda.mem_get_info()
    allowed = torch.cuda.get_per_process_memory_fraction() * total
    return free < NEARLY * total or torch.cuda.memory_reserved() > (1.0 - NEARLY) * allowed


def free_memory(error: BaseException) -> None:
    """Give back the tensors that the frames of ``error`` hold, and all cached memory, so that the next trial has it."""
    import torch

    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    gc.collect()
    if torch.cuda.is_initialized():
        _empty_cache("cuda")
    elif torch.backends.mps.is_available():
        _empty_cache("mps")
