"""ECE, all metrics and temperature fits of many logits, beside torchmetrics, torch's LBFGS and probmetrics, in turns.

Run it as a script:

    python tests/benchmarks/bench_calibration.py                    # a million images of 100 classes: a few minutes
    python tests/benchmarks/bench_calibration.py --images 20000     # seconds

Prints the CPU seconds of each turn, their medians' ratio to ddcal's, and how far the results are from ddcal's. CPU
seconds of a number of threads that is the same for all are hardly changed by other work on the machine. probmetrics is
left out, and it says so, where it is not installed (pip install probmetrics); ddcal does not need it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from ddcal.calibration import expected_calibration_error, fit_temperature, score


def sample(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 logits, twice too sharp, and their labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(images, classes).normal_(0.0, 2.0, generator=generator)
    labels = torch.empty(images, dtype=torch.int64)
    for start in range(0, images, 50_000):
        part = slice(start, start + 50_000)
        labels[part] = torch.multinomial(torch.softmax(logits[part], dim=1), 1, generator=generator)[:, 0]
    return logits.mul_(2.0), labels


def torchmetrics_ece(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the ECE of 15 bins, in float32."""
    from torchmetrics.classification import MulticlassCalibrationError

    return float(MulticlassCalibrationError(logits.shape[1], n_bins=15)(torch.softmax(logits, dim=1), labels))


def lbfgs(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature of plain autograd and LBFGS with a strong Wolfe line search, in float32."""
    inverse = torch.ones(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([inverse], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits * inverse, labels)
        loss.backward()
        return loss

    optimiser.step(closure)
    return 1.0 / float(inverse.detach())


def probmetrics_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature of its bisection (30 steps in the logarithm of 1/T), in float32."""
    from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    calibrator = TemperatureScalingCalibrator()
    calibrator.fit_torch(CategoricalLogits(logits), labels)
    return 1.0 / float(calibrator.invtemp_)


Run = Callable[[torch.Tensor, torch.Tensor], float]
GROUPS: dict[str, dict[str, Run]] = {
    "ECE of 15 bins": {"ddcal": expected_calibration_error, "torchmetrics": torchmetrics_ece},
    "all metrics": {"ddcal": lambda logits, labels: score(logits, labels)["ece_15"]},
    "temperature": {
        "ddcal": lambda logits, labels: fit_temperature(logits, labels).temperature,
        "torch LBFGS": lbfgs,
        "probmetrics": probmetrics_temperature,
    },
}
"""What is measured; ddcal's is the first of each group."""


def main() -> None:
    """Take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; ddcal's metrics and fits use one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    groups = {name: dict(runs) for name, runs in GROUPS.items()}
    for package, (group, name) in {
        "torchmetrics": ("ECE of 15 bins", "torchmetrics"),
        "probmetrics": ("temperature", "probmetrics"),
    }.items():
        if importlib.util.find_spec(package) is None:
            del groups[group][name]
            print(f"{package} is not installed: left out")
    small = sample(1000, options.classes)  # imports, first allocations
    for runs in groups.values():
        for run in runs.values():
            run(*small)

    logits, labels = sample(options.images, options.classes)
    print(f"{options.images} images of {options.classes} classes; CPU seconds of each turn", flush=True)
    for group, runs in groups.items():
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        results: dict[str, float] = {}
        for _ in range(options.turns):
            for name, run in runs.items():
                began = time.process_time()
                results[name] = run(logits, labels)
                seconds[name].append(time.process_time() - began)
        for name, taken in seconds.items():
            turns = " ".join(f"{one:7.2f}" for one in taken)
            ratio = statistics.median(taken) / statistics.median(seconds["ddcal"])
            apart = abs(results[name] - results["ddcal"])
            print(
                f"{group:15} {name:13} {turns} s  {ratio:6.2f} × ddcal's  {results[name]:.9f}, {apart:.1e} apart",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}, peak {peak:.1f} GB")


if __name__ == "__main__":
    main()
