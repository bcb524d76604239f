"""How often the host waits for the GPU in an iteration, how many kernels it starts, and how busy the GPU is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from measuring.cases import LEARNED, step_distiller
from measuring.evaluation import training
from measuring.task import Row, Task, each_in_time, seconds

CPU = torch.autograd.DeviceType.CPU
WAITING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHING = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def measure(task: Task) -> Iterator[Row]:
    """Yield a row for an epoch of the evaluation, and for an iteration of each backbone."""
    with task.on_the_device() as device:
        for name, _ in each_in_time(task, ("evaluation", *LEARNED), str):
            call = training(task, 1).step if name == "evaluation" else step_distiller(task, name).step
            call()  # the first compiles and allocates
            yield {"name": name, **(counted(call, device) if device is not None else profiled(call))}


def counted(call: Callable[[], object], device: Any) -> Row:
    """Return what the pretended device counts."""
    device.forget()
    call()
    copies = {what: 0 for what in ("host to device", "device to host")}
    for (what, _), count in device.waits.items():
        if what in copies:
            copies[what] += count
    return {
        "waits": sum(device.waits.values()),
        "to_device": copies["host to device"] + device.moves,
        "to_host": copies["device to host"],
        "kernels": sum(device.kernels.values()),
        "busy": None,
    }


def profiled(call: Callable[[], object]) -> Row:
    """Return what torch's profiler sees of a call, less what it does itself; ``busy`` is of a call without it."""
    plain = seconds(call)
    own, _, _ = traced(lambda: None)
    counts, on_gpu, slowly = traced(call)
    counts = {key: count - own.get(key, 0) for key, count in counts.items()}

    def total(*names: str) -> int:
        return sum(count for key, count in counts.items() if key.startswith(names))

    return {
        "waits": total(*WAITING),
        "to_device": total("Memcpy HtoD"),
        "to_host": total("Memcpy DtoH"),
        "kernels": total(*LAUNCHING),
        "busy": on_gpu / plain,
        "seconds": plain,
        "seconds_traced": slowly,
        "calls": {key: count for key, count in counts.items() if key.startswith(("cu", "Memcpy")) and count},
    }


def traced(call: Callable[[], object]) -> tuple[dict[str, int], float, float]:
    """Return how often what was called, the seconds of the GPU's own work, and those of the call while traced."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profile:
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        slowly = time.perf_counter() - began
    averages = profile.key_averages()
    on_gpu = sum(event.self_device_time_total for event in averages if event.device_type != CPU) / 1e6
    return {event.key: event.count for event in averages}, on_gpu, slowly
