"""Studies on a Ray with one GPU that is only a number; run by test_gpu_studies.py in a process of its own.

The workers compute on the CPU. A hook in each of them makes training run out of memory below the share of the GPU that
the trial's ipc needs, and reports a memory for every stage. A trial of the seed `BREAKS` breaks its process, as an
error of CUDA's does: no other one can begin in it.
"""

import json
import os
import sys
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.errors import StoreError
from ddcal.study.run.ray_executor import ENVIRONMENT

NEEDS = {1: 0.3, 2: 0.6, 3: 0.1}
"""ipc → the share of the GPU without which training runs out of memory."""

BREAKS = 4

BASE = {
    "network.width": 8, "distill.backbone": "real", "distill.probe.epochs": 1,
    "train.epochs": 4, "train.lr": 0.1, "train.augment": "none", "train.networks": 1,
}  # fmt: skip


def make_hook(needs, breaks):
    def hook():
        """Runs in every worker process; nested, so that it travels by value."""
        import ray
        import torch

        from ddcal.pipeline import TrialRunner
        from ddcal.study.gpu.memory import GpuMemory
        from ddcal.study.run import worker

        broken = []

        class Memory(GpuMemory):
            def __init__(self, device, fraction, context):
                if broken and fraction:  # not the one that a worker has before it begins
                    raise MemoryError("no memory in this process")
                super().__init__("cpu", fraction, context)
                assert not fraction or fraction == ray.get_runtime_context().get_assigned_resources()["GPU"]

            def note(self, advance, ended):
                if ended and not advance.cached:
                    self._peaks[advance.stage] = {"distill": 300, "train": 100}.get(advance.stage, 10) * 2**20

            def measured(self):
                return (
                    [{"total": 1000 * 2**20, "context": 40 * 2**20, "peaks": dict(self._peaks)}] if self._peaks else []
                )

        advance = TrialRunner.advance

        def limited(self):
            if self.config.seed == breaks:
                broken.append(self)
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            share = ray.get_runtime_context().get_assigned_resources()["GPU"]
            if "distill" in self.entries and "train" not in self.entries and share < needs[self.config.distill.ipc]:
                raise torch.OutOfMemoryError(f"CUDA out of memory at {share}")
            return advance(self)

        worker.GpuMemory = Memory
        TrialRunner.advance = limited

    return hook


def study_of(name, enqueue, **resources):
    return StudyConfig.model_validate(
        {
            "name": name,
            "base": BASE,
            "space": {"distill.ipc": {"choice": list(NEEDS)}, "seed": {"choice": list(range(5))}},
            "objectives": {"val/ece": "min"},
            "search": {"trials": len(enqueue), "concurrency": 3, "enqueue": enqueue, "searcher": "random"},
            "resources": {"cpu": 0.5, **resources},
            "tracking": {"experiment": name},
        }
    )


def main(root):
    os.environ.update(ENVIRONMENT)
    import ray

    from ddcal.study import load_study, run_study
    from ddcal.study.run.in_turn import opening
    from ddcal.study.run.runner import resume_study

    ray.init(
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        namespace="ddcal",
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": make_hook(NEEDS, BREAKS)},
    )
    of = lambda *pairs: [{"distill.ipc": ipc, "seed": seed} for ipc, seed in pairs]  # noqa: E731
    kind = opening.ray_environment(study_of("kind", of((1, 0)), gpu=0.25), ray).kind  # asked where the GPU is
    opening.ray_device = lambda study: "cpu"
    run_study(study_of("grow", of((1, 0), (2, 0), (3, 0)), gpu=0.25, on_oom="grow"), output=root)
    run_study(study_of("record", of((1, 1)), gpu=0.25), output=root)
    run_study(study_of("auto", of((3, 2), (3, 3)), gpu="auto"), output=root)
    resume_study(root / "auto", trials=3)
    run_study(study_of("broken", of((3, BREAKS), (3, 0), (3, 1)), gpu=1.0), output=root)
    try:
        run_study(study_of("stopped", of((3, BREAKS), (3, 0), (3, 1)), gpu=1.0, retries=0), output=root)
    except StoreError as error:
        stop = str(error)
    unfinished = [trial.outcome for trial in load_study(root / "stopped").records]
    resume_study(root / "stopped")
    found = {"kind": kind, "stop": stop, "unfinished": unfinished}
    for name in ("grow", "record", "auto", "broken", "stopped"):
        results = load_study(root / name)
        found[name] = {
            "trials": [[t.outcome, t.attempt, t.gpu, t.error, t.progress] for t in results.records],
            "summary": results.summary(),
        }
    (root / "found.json").write_text(json.dumps(found))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
