"""The cap, the measurement and the freeing of a GPU's memory, on a torch.cuda of this file's own."""

import gc
import math
import weakref
from types import SimpleNamespace

import pytest
import torch
from ray import cloudpickle

from ddcal.config import trial_from
from ddcal.pipeline import Advance, TrialRunner
from ddcal.study import DDNNTrainable
from ddcal.study.gpu.memory import GpuMemory, ran_out_of_memory
from ddcal.study.run.worker import Assignment, LostProcess, Worker

GIB = 2**30


@pytest.fixture
def cuda(monkeypatch):
    """A GPU of 16 GiB with a context of 1 GiB; ``holds`` is what the allocator has reserved."""
    state = SimpleNamespace(holds=0, peak=0, caps=[], emptied=0)

    def hold(amount):
        state.holds = amount
        state.peak = max(state.peak, amount)

    def empty():
        state.emptied += 1
        state.holds = 0

    state.hold = hold
    fakes = {
        "is_initialized": lambda: True,
        "empty_cache": empty,
        "mem_get_info": lambda: (15 * GIB - state.holds, 16 * GIB),
        "memory_reserved": lambda: state.holds,
        "max_memory_reserved": lambda: state.peak,
        "reset_peak_memory_stats": lambda: setattr(state, "peak", state.holds),
        "set_per_process_memory_fraction": state.caps.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return state


@pytest.mark.parametrize(
    ("fraction", "context", "cap"),
    [(1.0, GIB, 1.0), (0.0, None, 1.0), (2.0, None, 1.0), (0.25, GIB, 0.1875), (0.5, 2 * GIB, 0.375),
     (0.25, None, 0.25 - 600 / 16384), (0.05, GIB, 0.01)],
)  # fmt: skip
def test_the_cap_is_the_fraction_without_the_context(cuda, fraction, context, cap):
    GpuMemory("cuda", fraction, context)
    assert cuda.caps == [pytest.approx(cap)]


def test_on_the_cpu_nothing_is_touched(cuda):
    memory = GpuMemory("cpu", 0.25, None)
    memory.note(Advance("train", 1.0, {"progress": 1.0}), ended=True)
    memory.ran_out("train")
    assert cuda.caps == [] and cuda.emptied == 0 and memory.measured() == []


def test_every_computed_stage_is_measured_by_itself(cuda):
    memory = GpuMemory("cuda", 1.0, None)
    cuda.hold(9 * GIB)
    memory.note(Advance("distill", 0.1), ended=False)
    assert memory.measured() == [], "between two points not all kinds of work were done"
    memory.note(Advance("distill", 0.25, {"progress": 0.25}), ended=False)
    assert memory.measured() == [{"total": 16 * GIB, "context": GIB, "peaks": {"distill": 9 * GIB}}]
    cuda.hold(10 * GIB)
    memory.note(Advance("distill", 0.5, {"progress": 0.5}), ended=True)
    cuda.hold(2 * GIB)
    memory.note(Advance("distill", 0.5), ended=True)
    memory.note(Advance("train", 0.6, {"progress": 0.6}), ended=False)
    cuda.hold(3 * GIB)
    memory.note(Advance("calibrate", 0.95, cached=True), ended=True)
    (measured,) = memory.measured()
    assert measured["peaks"] == {"distill": 10 * GIB, "train": 2 * GIB}, "a cached stage has used nothing"


def test_a_process_among_others_does_not_measure_the_context(cuda):
    memory = GpuMemory("cuda", 0.25, GIB)
    cuda.hold(2 * GIB)
    memory.note(Advance("train", 0.9, {"progress": 0.9}), ended=True)
    assert memory.measured() == [{"total": 16 * GIB, "context": None, "peaks": {"train": 2 * GIB}}]


def test_running_out_is_measured_as_the_cap(cuda):
    memory = GpuMemory("cuda", 0.25, GIB)
    cuda.hold(GIB)
    memory.ran_out("train")
    assert memory.measured()[0]["peaks"] == {"train": 3 * GIB}


def make_config(tiny_study, tmp_path, **settings):
    trial = trial_from(tiny_study().base, {}).model_dump(mode="json")
    return {"trial": trial, "store": str(tmp_path / "store"), **settings}


def test_every_trial_of_a_process_has_its_own_cap(cuda, tiny_study, tmp_path, monkeypatch):
    """What one trial was given must not bind the next, also back to a whole GPU."""
    monkeypatch.setattr(TrialRunner, "advance", lambda self: (_ for _ in ()).throw(ValueError("enough")))
    trainable = DDNNTrainable(
        config=make_config(tiny_study, tmp_path, device="cuda", gpu=0.25, context=GIB), storage=None
    )
    trainable.train()
    for gpu in (1.0, 0.5):
        trainable.reset(make_config(tiny_study, tmp_path, device="cuda", gpu=gpu, context=GIB))
        trainable.train()
    trainable.stop()
    assert cuda.caps == [0.1875, 1.0, 0.4375]


def raising(error):
    def answer(*_):
        raise error

    return answer


def test_a_process_that_cuda_has_broken_fails_no_other_trial(cuda, tiny_study, tmp_path, monkeypatch):
    """An illegal access of memory ends the process's context: whatever asks CUDA from then on raises it again."""
    broken = RuntimeError("CUDA error: an illegal memory access was encountered")

    def advance(self):
        monkeypatch.setattr(torch.cuda, "mem_get_info", raising(broken))
        raise broken

    monkeypatch.setattr(TrialRunner, "advance", advance)
    config = make_config(tiny_study, tmp_path, device="cuda", gpu=0.5, trial_key="tiny-0001")
    trainable = DDNNTrainable(config=dict(config), storage=None)
    (record,) = trainable.train()["records"]
    assert record["outcome"] == "failed" and "illegal" in record["error"]
    assert trainable.reset(dict(config)) is True
    with pytest.raises(LostProcess, match=r"tiny-0001 cannot begin: RuntimeError: CUDA error: .* \(on ") as lost:
        trainable.train()
    trainable.stop()
    there = cloudpickle.loads(cloudpickle.dumps(lost.value))  # as it comes to the driver
    assert isinstance(there, LostProcess) and there.cure == lost.value.cure and "nvidia-smi" in there.cure


def test_a_trial_that_finds_its_gpu_full_has_run_out_of_memory(cuda, tiny_study, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", raising(RuntimeError("CUDA error: out of memory")))
    config = make_config(tiny_study, tmp_path, device="cuda", gpu=0.25)
    (record,) = Worker(Assignment.from_config(config), None).step()["records"]
    assert record["outcome"] == "out_of_memory" and "the trial had 1/4 of a GPU" in record["error"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), False),
        (MemoryError("out of memory"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_what_is_out_of_gpu_memory(error, expected):
    assert ran_out_of_memory(error) is expected


@pytest.mark.parametrize(
    "said",
    [
        "CUBLAS_STATUS_NOT_INITIALIZED",
        "CUDNN_STATUS_INTERNAL_ERROR",
        "GET was unable to find an engine to execute this computation",
    ],
)
@pytest.mark.parametrize(
    ("free", "reserved", "expected"), [(9 * GIB, GIB, False), (GIB // 4, GIB, True), (9 * GIB, 4 * GIB, True)]
)
def test_an_error_that_may_mean_it_does_so_where_little_is_left(said, free, reserved, expected, monkeypatch):
    """Of 16 GiB this process may have a quarter."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: reserved)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: 0.25)
    assert ran_out_of_memory(RuntimeError(f"{said} when calling it")) is expected


@pytest.mark.parametrize(
    ("gpu", "said"),
    [(0.25, ["1/4 of a GPU", "resources.gpu", "on_oom: grow"]), (1.0, ["a whole GPU", "network.width"])],
)
def test_nothing_of_a_trial_that_ran_out_of_memory_stays(tiny_study, tmp_path, monkeypatch, gpu, said):
    """The tensors of the raising frames are held by the error's traceback, until that is cleared."""
    held, emptied = [], []

    def advance(self):
        tensor = torch.zeros(1000)
        self.work = [torch.zeros(1000), self]  # a cycle, as modules and hooks make
        held.extend([weakref.ref(tensor), weakref.ref(self.work[0]), weakref.ref(self)])
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")

    def empty():
        emptied.append([reference() is None for reference in held])

    monkeypatch.setattr(TrialRunner, "advance", advance)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", empty)
    gc.collect()
    gc.disable()
    try:
        config = make_config(tiny_study, tmp_path, gpu=gpu)
        result = Worker(Assignment.from_config(config), None).step()
    finally:
        gc.enable()
    assert emptied == [[True] * 3], "all is free when the cache is emptied"
    (record,) = result["records"]
    assert record["outcome"] == "out_of_memory" and result["done"] and math.isnan(result["val/nll"])
    assert "GPU 0 has" not in record["error"] and all(word in record["error"] for word in ["2.00 GiB", *said])


def test_an_apple_gpu_is_measured_and_not_capped(monkeypatch):
    """Nothing of ``torch.cuda`` is asked, which has no driver here."""
    state = SimpleNamespace(holds=3 * GIB, emptied=0)
    for name, answer in {
        "empty_cache": lambda: setattr(state, "emptied", state.emptied + 1),
        "driver_allocated_memory": lambda: state.holds,
        "recommended_max_memory": lambda: 16 * GIB,
    }.items():
        monkeypatch.setattr(torch.mps, name, answer)
    memory = GpuMemory("mps", 1.0, None)
    assert state.emptied == 1 and memory.measured() == []
    memory.note(Advance("train", 0.5), ended=True)
    state.holds = 1 * GIB
    memory.note(Advance("evaluate", 1.0), ended=True)
    assert memory.measured() == [{"total": 16 * GIB, "context": None, "peaks": {"train": 3 * GIB, "evaluate": 1 * GIB}}]
    assert state.emptied == 3
    assert ran_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, …)"))
