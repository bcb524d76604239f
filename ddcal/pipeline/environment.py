"""Where a stage computes: the device, the precision and the thread count are part of every artefact's identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ddcal.allocator import keep_freed_memory
from ddcal.compiling import compiler_problem, prepare_compiling
from ddcal.config import StudyConfig
from ddcal.config.problems import Problem, problem_at
from ddcal.errors import ResourceError
from ddcal.precision import Precision, state_determinism, state_precision

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32")


@dataclass(frozen=True)
class Environment:
    """The computing identity of a run.

    Attributes:
        device: ``"cpu"``, ``"cuda"``, or ``"mps"`` (Apple's GPUs, in one process alone).
        threads: torch's thread count: 1 and 2 threads give different bits.
        precision: The arithmetic: ``"float32"``, or ``"tf32"`` for the convolutions of NVIDIA's GPUs.
        kind: What `device_kind` says, where that was asked on another machine: a head node without a GPU cannot tell
            the GPU that its trials run on.
        compile: Whether loops of first derivatives are compiled (`ddcal.compiling`).
    """

    device: str = "cpu"
    threads: int = 1
    precision: Precision = "float32"
    kind: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what no machine has.

        Raises:
            ResourceError: naming the attribute and what would be right.
        """
        if self.device not in DEVICES:
            raise ResourceError(f"device is {self.device!r}; it must be one of {', '.join(DEVICES)}")
        if self.precision not in PRECISIONS:
            raise ResourceError(f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}")
        if self.precision == "tf32" and self.device != "cuda":
            raise ResourceError(f"precision is 'tf32', an arithmetic of NVIDIA's GPUs; on {self.device} it is float32")
        if self.compile and self.device == "mps":
            raise ResourceError("compile: nothing is compiled for Apple's GPUs: leave it off, or compute on the cpu")

    @classmethod
    def recorded(cls, identity: Mapping[str, Any]) -> Environment:
        """Return one like that whose `identity` was recorded, of this machine's GPU; old ones say nothing of compiling.

        Args:
            identity: From a ledger or an export.
        """
        return cls(
            identity["device"].partition(":")[0],
            identity["threads"],
            identity.get("precision", "float32"),
            compile=identity.get("compile", False),
        )

    @property
    def device_kind(self) -> str:
        """``"cpu"``, ``"mps"``, or the GPU's model, whose kernels decide the bits."""
        if self.kind is not None or self.device in ("cpu", "mps"):
            return self.kind or self.device
        import torch

        return f"cuda:{torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cuda"

    def identity(self) -> dict[str, str | int]:
        """Return what goes into stage keys; compiling where it is on, so that the keys of what is not stay."""
        said: dict[str, str | int] = {
            "device": self.device_kind,
            "precision": self.precision,
            "threads": self.threads,
        }
        return said | {"compile": True} if self.compile else said

    def apply(self) -> None:
        """Set torch's threads and arithmetic for this process (`ddcal.precision`), and have it keep freed memory.

        Raises:
            ResourceError: as `prepare_compiling`, or if the GPU has no tf32.
        """
        import torch

        keep_freed_memory()
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        for attribute, problem in lacks(self) if self.precision == "tf32" else ():
            raise ResourceError(f"{attribute}: {problem}")
        if self.compile:
            prepare_compiling(self.threads)
        state_precision(self.precision)
        state_determinism(self.device)


def default_device() -> str:
    """Return ``"cuda"`` where torch sees a GPU of NVIDIA's or AMD's, else ``"cpu"``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def study_environment(study: StudyConfig, device: str | None = None) -> Environment:
    """Return where a study's trials compute, and how.

    Args:
        study: Its ``resources``.
        device: Default: ``"cuda"`` where a trial asks for a GPU, else ``"cpu"``.

    Raises:
        ResourceError: as `Environment`.
    """
    asked = study.resources
    return Environment(
        device or ("cuda" if asked.gpu else "cpu"), asked.threads, asked.precision, compile=asked.compile
    )


def compile_problems(study: StudyConfig) -> list[Problem]:
    """Return what keeps a study from compiling here: nothing where it does not ask for it. Imports no torch."""
    problem = compiler_problem() if study.resources.compile else None
    return [problem_at(("resources", "compile"), f"{problem}, or leave it off", True)] if problem else []


def gpu_device() -> str | None:
    """Return ``"cuda"`` or ``"mps"``, whichever GPU torch sees here; None without one."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else None


def lacks(environment: Environment) -> Iterator[tuple[str, str]]:
    """Yield what an environment asks of this machine that it has not: the attribute, and what is the matter."""
    import torch

    device = environment.device
    if device != "cpu" and gpu_device() != device:
        yield "device", f"{environment.kind or device} is asked for, and torch sees none here"
    elif environment.precision == "tf32" and (torch.version.hip or torch.cuda.get_device_capability() < (8, 0)):
        yield "precision", f"tf32 is asked for, and {environment.device_kind} has none: NVIDIA's from Ampere on have it"
    if environment.compile and (problem := compiler_problem()):
        yield "compile", problem
