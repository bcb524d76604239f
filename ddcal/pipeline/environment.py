"""Where a stage computes: the device, the precision and the thread count are part of every artefact's identity."""

from __future__ import annotations

from dataclasses import dataclass

from ddcal.allocator import keep_freed_memory
from ddcal.precision import Precision, state_determinism, state_precision


@dataclass(frozen=True)
class Environment:
    """The computing identity of a run.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        threads: torch's thread count: 1 and 2 threads give different bits.
        precision: The arithmetic, ``"float32"``.
        kind: What `device_kind` says, where that was asked on another machine: a head node without a GPU cannot tell
            the GPU that its trials run on.
    """

    device: str = "cpu"
    threads: int = 1
    precision: Precision = "float32"
    kind: str | None = None

    @property
    def device_kind(self) -> str:
        """``"cpu"``, or the GPU's model, whose kernels decide the bits."""
        if self.kind is not None or self.device == "cpu":
            return self.kind or "cpu"
        import torch

        return f"cuda:{torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cuda"

    def identity(self) -> dict[str, str | int]:
        """Return what goes into stage keys."""
        return {"device": self.device_kind, "precision": self.precision, "threads": self.threads}

    def apply(self) -> None:
        """Set torch's threads and arithmetic for this process (`ddcal.precision`), and have it keep freed memory."""
        import torch

        keep_freed_memory()
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        state_precision(self.precision)
        state_determinism(self.device)


def default_device() -> str:
    """Return ``"cuda"`` where torch sees a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
