"""Wall time of a trial whose distilled set and networks are in the store, on Ray with reused actors.

Run it as a script:  python tests/benchmarks/bench_cached_trials.py [TRIALS]
It prints the machine, the versions, and the time from one trial's end to the next one's (median, maximum), with the
part that the worker itself spent. The target is 0.3 s.
"""

import os
import platform
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from ddcal.config import StudyConfig
from ddcal.study import run_study
from ddcal.study.provenance import package_versions
from ddcal.study.ray_executor import ray_runtime
from ddcal.study.runner import Hooks

BASE = {
    "network": {"width": 8},
    "distill": {"backbone": "real", "ipc": 2, "probe": {"epochs": 1}},
    "train": {"epochs": 4, "lr": 0.1, "augment": "none", "networks": 1},
}


def measure(trials: int, root: Path) -> None:
    """Run ``trials`` trials that differ in ``calibrate.*`` alone and print their times."""
    study = StudyConfig.model_validate(
        {
            "name": "cached",
            "base": BASE,
            "space": {"calibrate.mask.ratio": {"uniform": [0.0, 0.9]}},
            "objectives": {"val/ece": "min"},
            "search": {"searcher": "random", "trials": trials + 1},
        }
    )
    ends: list[float] = []
    results = run_study(study, output=root, hooks=Hooks(on_finished=lambda trial: ends.append(time.monotonic())))
    assert all(trial.cache_hits == ("distill", "train") for trial in results.records[1:])
    walls = [after - before for before, after in pairwise(ends)]
    inside = [trial.seconds or 0.0 for trial in results.records[1:]]
    versions = package_versions()
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ray", "optuna", "mlflow"))
    print(f"{platform.machine()}, {os.cpu_count()} CPUs; {shown}")
    print(f"{trials} cached trials, one at a time:")
    for name, values in (("a trial", walls), ("in the worker", inside)):
        print(f"  {name:<14} median {statistics.median(values):.3f} s   max {max(values):.3f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="ddcal-") as root:
        os.environ["HOME"] = root  # Ray writes its token there
        with ray_runtime(None):
            measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(root) / "runs")
