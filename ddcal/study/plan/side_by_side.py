"""How many trials run side by side, and what keeps it from being more."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ddcal.config import NetworkConfig, StudyConfig, TrialConfig
from ddcal.config.networks import architecture
from ddcal.errors import BadInput
from ddcal.pipeline import Environment

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container may use."""


@dataclass(frozen=True)
class Machine:
    """Where a study would run: its CPUs and GPUs."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Packing:
    """A group of trials that need the same memory.

    Attributes:
        backbone: Their distillation backbone.
        ipc: Their images per class.
        network: The network that is trained, in words; where trials end with the distilled set, the distilling one.
        dataset: Their data.
        trials: How many there are.
        cpu: What each asks Ray for.
        threads: torch's threads of each.
        gpu: The share of a GPU, or ``"auto"``.
        at_a_time: How many run side by side.
        limited_by: What keeps it from being more: a key of the study, with what this machine has.
    """

    backbone: str
    ipc: int
    network: str
    dataset: str
    trials: int
    cpu: float
    threads: int
    gpu: float | str
    at_a_time: int
    limited_by: str


def this_machine() -> Machine:
    """Return the CPUs and the GPUs of this machine; of a container with a limit the CPUs that Ray takes there."""
    import torch

    cpus, quota = os.cpu_count() or 1, _cpu_quota()
    if quota is not None:
        cpus = min(cpus, max(1, int(quota)))
    return Machine(cpus, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def _cpu_quota() -> float | None:
    """Return how many CPUs this container may use, by cgroups of version 2 or 1; None where they say nothing."""
    with suppress(OSError, ValueError):  # "max" is no number
        quota, period = map(float, (CGROUP / "cpu.max").read_text().split())
        return quota / period
    with suppress(OSError, ValueError):
        quota, period = (float((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    return None


def on_cuda(study: StudyConfig) -> bool:
    """Return whether the study's trials run on a GPU."""
    return isinstance(study.resources.gpu, str) or study.resources.gpu > 0


def pack(study: StudyConfig, configs: Sequence[TrialConfig], machine: Machine) -> list[Packing]:
    """Return the groups of a study's trials, the largest first.

    Args:
        study: For its resources and concurrency.
        configs: Its trials, resolved.
        machine: Where they run.
    """
    resources = study.resources
    at_a_time, limited_by = slots(study, machine)
    groups = Counter(
        (config.distill.backbone, config.distill.ipc, _network(study, config), config.data.name) for config in configs
    )
    return [
        Packing(
            *group,
            trials=count,
            cpu=resources.cpus,
            threads=resources.threads,
            gpu=resources.gpu,
            at_a_time=at_a_time,
            limited_by=limited_by,
        )
        for group, count in sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    ]


def slots(study: StudyConfig, machine: Machine) -> tuple[int, str]:
    """Return how many trials run side by side, and what limits it. 0 where one trial asks for more than there is.

    With ``gpu: auto`` the first trial of a group has a GPU to itself; how many the next ones share is measured then,
    so at least one a GPU is counted.
    """
    resources = study.resources
    limits = [(study.search.concurrency, "search.concurrency")]
    if (count := cpu_slots(study, machine.cpus)) is not None:
        limits.append((count, f"{resources.cpus_key} ({machine.cpus} CPUs here)"))
    if (count := gpu_slots(study, machine.gpus)) is not None:
        there = f"{machine.gpus} GPU{'s' * (machine.gpus != 1)} here" if machine.gpus else "no GPU here"
        limits.append((count, f"resources.gpu ({there})"))
    return min(limits, key=lambda limit: limit[0])


def cpu_slots(study: StudyConfig, cpus: int) -> int | None:
    """Return for how many trials the CPUs of a machine are enough; None where trials ask for none."""
    return math.floor(cpus / study.resources.cpus + 1e-9) if study.resources.cpus else None


def gpu_slots(study: StudyConfig, gpus: int) -> int | None:
    """Return for how many trials the GPUs of a machine are enough, as `slots` counts them; None on the CPU."""
    asked = study.resources.gpu
    if not on_cuda(study):
        return None
    share = 1.0 if isinstance(asked, str) else float(asked)
    # Ray places no trial on parts of two GPUs.
    return gpus * math.floor(1 / share + 1e-9) if share <= 1 else math.floor(gpus / share + 1e-9)


def _network(study: StudyConfig, config: TrialConfig) -> str:
    network = (config.distill if study.trial == "distill" else config.train).network.over(NetworkConfig())
    width = f" width {network.width}" if network.width else ""
    depth = f" depth {network.depth}" if network.depth else ""
    norm = f" {network.norm}" if network.norm != architecture(network.name).norms[0] else ""
    return f"{network.name}{width}{depth}{norm}"


def refuse_without_gpu(environment: Environment) -> None:
    """Raise BadInput if the study's trials need a GPU that this machine does not have."""
    from ddcal.pipeline.environment import default_device

    if environment.device != "cpu" and default_device() == "cpu":
        raise BadInput(
            "--probe: the study's trials run on a GPU and this machine has none that torch sees: "
            "plan on a machine with one, or leave --probe out"
        )
