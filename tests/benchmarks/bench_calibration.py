"""ECE, all metrics and temperature fitting on many logits, beside torchmetrics and torch's LBFGS, in turns.

    python tests/benchmarks/bench_calibration.py [--images 1000000] [--classes 100] [--turns 3]

Prints the seconds of each turn, the ratio of the medians, and whether the results agree. probmetrics' temperature
scaling is timed too where it is installed (pip install probmetrics numba).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torchmetrics.classification import MulticlassCalibrationError

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


def probmetrics_temperature() -> Callable[[torch.Tensor, torch.Tensor], float] | None:
    """Return its bisection, if it is installed."""
    try:
        from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
        from probmetrics.distributions import CategoricalLogits
    except ImportError:
        return None

    def fit(logits: torch.Tensor, labels: torch.Tensor) -> float:
        calibrator = TemperatureScalingCalibrator()
        calibrator.fit_torch(CategoricalLogits(logits), labels)
        return 1.0 / float(calibrator.invtemp_)

    return fit


def main() -> None:
    """Take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    logits, labels = sample(arguments.images, arguments.classes)
    runs: dict[str, Callable[[], float]] = {
        "ECE, ddcal": lambda: expected_calibration_error(logits, labels),
        "ECE, torchmetrics": lambda: torchmetrics_ece(logits, labels),
        "score (all metrics), ddcal": lambda: score(logits, labels)["ece_15"],
        "temperature, ddcal": lambda: fit_temperature(logits, labels).temperature,
        "temperature, torch LBFGS": lambda: lbfgs(logits, labels),
    }
    other = probmetrics_temperature()
    if other is not None:
        runs["temperature, probmetrics"] = lambda: other(logits, labels)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, float] = {}
    for _ in range(arguments.turns):
        for name, run in runs.items():
            began = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        reference = name.split(",")[0].split(" ")[0] + ", ddcal"
        ratio = statistics.median(taken) / statistics.median(seconds.get(reference, seconds["ECE, ddcal"]))
        turns = " ".join(f"{one:.2f}" for one in taken)
        print(f"{name:28} {turns} s; {ratio:.2f} × ddcal's; result {results[name]:.7f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f}, peak {peak:.1f} GB")


if __name__ == "__main__":
    main()
