"""Where a stage computes: the device, the precision and the thread count are part of every artefact's identity."""

from __future__ import annotations

from dataclasses import dataclass

from ddcal.allocator import keep_freed_memory


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
    precision: str = "float32"
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
        """Set torch's thread count for this process, have it keep freed memory, and deterministic convolutions."""
        import torch

        keep_freed_memory()
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if self.device != "cpu":
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False


def default_device() -> str:
    """Return ``"cuda"`` where torch sees a GPU, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
