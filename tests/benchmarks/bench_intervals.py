"""How often 95 % intervals of ECE and NLL hold the truth: bootstrap over seeds and images, Student's t over seeds.

Run it as a script:

    python tests/benchmarks/bench_intervals.py                # about two minutes of one core

Images have class probabilities p from a Dirichlet distribution, and labels drawn from p. The network of a seed has the
logits a log p, where log a is normal around log 1.5 with a standard deviation of 0.15: over-confident, more or less so
from seed to seed. All seeds see the same images. The truth is the mean over seeds with all images there are: many
seeds, a million images, and p itself in the place of labels.
"""

from __future__ import annotations

import argparse
import math

import torch

from ddcal.calibration import bootstrap_intervals, score
from ddcal.seeding import generator

CLASSES, BINS = 10, 15
CENTRE, SPREAD = math.log(1.5), 0.15
T_QUANTILE = {3: 4.302653, 5: 2.776445, 10: 2.262157}
"""Student's t, 97.5 %, of so many seeds."""


def main() -> None:
    """Print a line a number of seeds and metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200, help="how many times intervals are made")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth = true_values()
    print(f"truth: ECE {100 * truth['ece']:.2f} %, NLL {truth['nll']:.4f}; {options.images} images, {BINS} bins")
    print("seeds  metric  bootstrap  Student's t   (share of 95 % intervals that hold the truth)")
    for seeds in T_QUANTILE:
        held = {(name, kind): 0 for name in truth for kind in ("bootstrap", "t")}
        for study in range(options.studies):
            logits, labels = draw_study(seeds, options.images, generator(study, "intervals", str(seeds)))
            found = bootstrap_intervals(
                logits,
                labels,
                tuple(truth),
                generator=generator(study, "intervals", "resamples"),
                resamples=options.resamples,
                bins=BINS,
            )
            each = [score(one, labels, 1.0, BINS) for one in logits]
            for name, value in truth.items():
                held[name, "bootstrap"] += found[name].low <= value <= found[name].high
                values = torch.tensor([one[name] for one in each])
                half = T_QUANTILE[seeds] * float(values.std()) / math.sqrt(seeds)
                held[name, "t"] += abs(float(values.mean()) - value) <= half
        for name in truth:
            shares = [100 * held[name, kind] / options.studies for kind in ("bootstrap", "t")]
            print(f"{seeds:5d}  {name:6s}  {shares[0]:7.1f} %  {shares[1]:9.1f} %", flush=True)


def draw_study(seeds: int, images: int, stream: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (seeds, images, K) and the labels (images,) that all seeds share."""
    p = draw_probabilities(images, stream)
    labels = torch.multinomial(p, 1, generator=stream)[:, 0]
    return factors(seeds, stream)[:, None, None] * p.log(), labels


def draw_probabilities(images: int, stream: torch.Generator) -> torch.Tensor:
    """Return float32 (images, K), Dirichlet with 0.3 a class: a few classes are likely for each image."""
    gamma = torch._standard_gamma(torch.full((images, CLASSES), 0.3), generator=stream).clamp_min(1e-8)
    return gamma / gamma.sum(dim=1, keepdim=True)


def factors(seeds: int, stream: torch.Generator) -> torch.Tensor:
    """Return how over-confident the network of each seed is, (seeds,)."""
    return (CENTRE + SPREAD * torch.randn(seeds, generator=stream)).exp()


def true_values() -> dict[str, float]:
    """Return ECE and NLL as means over many seeds, with expected labels."""
    stream = generator(0, "intervals", "truth")
    p = draw_probabilities(1_000_000, stream)
    right = p.amax(dim=1)  # the network's class is the likeliest
    found = {"ece": [], "nll": []}
    for factor in factors(60, stream):
        logs = (factor * p.log()).log_softmax(dim=1)
        confidence = logs.amax(dim=1).exp()
        bins = (confidence * BINS).ceil().clamp(1, BINS).long() - 1
        gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, (confidence - right).double())
        found["ece"].append(float(gaps.abs().sum()) / len(p))
        found["nll"].append(float(-(p * logs).sum(dim=1).mean()))
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


if __name__ == "__main__":
    main()
