"""A sweep of masked temperature scaling beside its bare forward passes.

Run it as a script:

    python tests/benchmarks/bench_sweep.py                    # 10,000 images: some ten minutes of one core
    python tests/benchmarks/bench_sweep.py --images 1000      # about one

Nine ratios times ten draws of masks over random images of CIFAR-10's shape, through a ConvNet of width 32: masking,
predicting, pooled fits and fits of single draws within three pairs of bounds, and every metric of as many test logits
at every temperature. Beside it, ratio by ratio in turns, the same network predicts as many unmasked images: that alone
is what nobody can save. Seconds are CPU seconds of one thread, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time

import torch

from ddcal.calibration import masked_logits, sweep_masks
from ddcal.config import NetworkConfig
from ddcal.networks import build_network, predict_logits
from ddcal.seeding import generator

RATIOS = tuple(step / 10 for step in range(1, 10))
BOUNDS = ((1.0, 20.0), (0.05, 20.0), (0.5, 5.0))
CLASSES = 10


def main() -> int:
    """Print the ratio; 0 where it is within the limit, 1 where it is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--limit", type=float, default=1.3, help="the most that the sweep may cost")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = build_network(NetworkConfig(width=options.width), 3, 32, CLASSES, generator(0, "bench", "network"))
    images = torch.randn(options.images, 3, 32, 32, generator=generator(0, "bench", "images"))
    labels = torch.arange(options.images) % CLASSES
    test = (predict_logits(network, images), labels)  # and a warm-up

    bare, whole, masked, fits = 0.0, 0.0, 0.0, 0
    for ratio in RATIOS:
        began = time.process_time()
        for _ in range(options.draws):
            predict_logits(network, images)
        bare += time.process_time() - began

        began = time.process_time()
        logits = masked_logits(network, images, labels, ratio, options.draws, 0)
        masked += time.process_time() - began
        fits += len(sweep_masks(lambda _, logits=logits: logits, [ratio], bounds=BOUNDS, scored={"test": test}))
        whole += time.process_time() - began
    count = options.images * options.draws * len(RATIOS)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread, ConvNet {options.width}")
    print(f"{len(RATIOS)} ratios × {options.draws} draws × {options.images} images, {len(BOUNDS)} bounds: {fits} fits")
    print(f"bare forward passes {bare:8.1f} s  {1e3 * bare / count:.3f} ms an image")
    print(f"masks and passes    {masked:8.1f} s  {masked / bare:.3f} times")
    print(f"the whole sweep     {whole:8.1f} s  {whole / bare:.3f} times; limit {options.limit}")
    return 0 if whole <= options.limit * bare else 1


if __name__ == "__main__":
    sys.exit(main())
