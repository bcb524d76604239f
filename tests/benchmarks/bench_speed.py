"""Every loop beside plain torch: CPU seconds of one thread, in turns, each in a process of its own kind.

Run it as a script:

    python tests/benchmarks/bench_speed.py                       # all of it, about 12 minutes of one core
    python tests/benchmarks/bench_speed.py --cases evaluation-32 dsa --turns 5

Two processes stay up for a case and work in turns: ddcal's, which keeps the memory that it frees as every worker does,
and a plain one with the C library's own settings. The plain steps are written from the definitions, as one would write
them down (those of distillation are `bench_distill`'s, one graph for all that a step differentiates); both get the same
drawn numbers. A ratio is plain / ddcal: above 1 ddcal is faster. Of ``side-by-side-…`` both sides are ddcal's: three
networks one after the other, and side by side. Of ``compiled-…`` ddcal's side is compiled before the
turns, once with an empty cache; how long that took is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_distill import PLAIN, distiller_of, own_step, random_dataset
from torch import Tensor, nn
from torch.nn import functional as F

from ddcal.config import DistillConfig, TrainConfig
from ddcal.data.augment import augment, draw_augmentation
from ddcal.distill.experts import ExpertTraining
from ddcal.networks import predict_logits
from ddcal.pipeline import Environment
from ddcal.seeding import generator
from ddcal.training import DDNNTraining

SIZE, IMAGES, EPOCHS, PREDICTED, EXPERT_IMAGES = 32, 100, 20, 1000, 512
TARGETS = {
    "evaluation-32": 2.0,
    "evaluation-128": 1.7,
    "compiled-32": 2.6,
    "compiled-128": 1.9,
    "dsa": 1.5,
    "dm": 1.5,
    "mtt-10": 1.5,
    "mtt-30": 1.4,
    "rtp": 1.0,
    "prediction": 1.5,
    "experts": 1.6,
    "side-by-side-8": 1.2,
    "side-by-side-32": 0.0,
}
"""What each ratio is to be at least; at 32 px a trial's networks are trained one after the other."""


class PlainConvNet(nn.Sequential):
    """The ConvNet-3 with instance norm, of torch's own layers."""

    def __init__(self, width: int) -> None:
        layers: list[nn.Module] = []
        for before in (3, width, width):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(16 * width, 10))


def plain_epochs(images: Tensor, labels: Tensor, width: int, batch: int) -> Callable[[], object]:
    """Return a plain epoch of training with DSA's augmentation."""
    network = PlainConvNet(width)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    draws = generator(0, "bench", "plain")

    def epoch() -> None:
        for chosen in torch.randperm(len(images), generator=draws).split(batch):
            drawn = draw_augmentation(len(chosen), SIZE, draws, siamese=False)
            loss = F.cross_entropy(network(augment(images[chosen], drawn)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def evaluations(width: int, who: str, compiled: bool = False) -> Callable[[], object]:
    """Epochs of one network on 100 images: several, as each draws one of DSA's operations, which cost more or less."""
    epoch = evaluation(width, who, compiled and who == "own")
    return lambda: [epoch() for _ in range(EPOCHS)]


def evaluation(width: int, who: str, compiled: bool = False) -> Callable[[], object]:
    """An epoch of one network on 100 images with DSA's augmentation."""
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator(0, "bench", "images"))
    labels = torch.arange(IMAGES) % 10
    if who == "plain":
        return plain_epochs(images, labels, width, 256)
    settings = {"epochs": 1000, "augment": "dsa", "lr": 0.01, "batch_size": 256, "weight_decay": 5e-4}
    config = TrainConfig.model_validate({**settings, "schedule": "step", "networks": 1, "network": {"width": width}})
    return DDNNTraining(images, labels, config, num_classes=10, flip=True, seed=0, compiled=compiled).step


def experts(width: int, who: str) -> Callable[[], object]:
    """An epoch of an expert on 512 images."""
    dataset = random_dataset(8, EXPERT_IMAGES // 8)
    if who == "plain":
        return plain_epochs(dataset.train.images, dataset.train.labels, width, 256)
    config = DistillConfig.model_validate(
        {"backbone": "mtt", "ipc": 1, "network": {"width": width}, "mtt": {"max_start": 999, "expert_epochs": 2}}
    )
    config = config.model_copy(
        update={
            "mtt": config.mtt.model_copy(update={"experts": config.mtt.experts.model_copy(update={"epochs": 1000})})
        }
    )
    return ExpertTraining(dataset, config, 0, 0, torch.device("cpu")).step


def side_by_side(size: int, who: str) -> Callable[[], object]:
    """Epochs of three networks of width 32 on 100 images, without augmentation: side by side, or one after the other.

    Images of 8 px are grey and those of 32 px have colours.
    """
    images = torch.randn(IMAGES, 1 if size == 8 else 3, size, size, generator=generator(0, "bench", "images"))
    settings = {"epochs": 10**6, "augment": "none", "lr": 0.01, "batch_size": 256, "weight_decay": 5e-4}
    config = TrainConfig.model_validate({**settings, "schedule": "step", "networks": 3, "network": {"width": 32}})
    labels = torch.arange(IMAGES) % 10
    training = DDNNTraining(images, labels, config, num_classes=10, flip=True, seed=0, side_by_side=who == "own")
    return lambda: [training.step() for _ in range(EPOCHS if size == 8 else 2)]


def prediction(width: int, who: str) -> Callable[[], object]:
    """The logits of 1,000 images."""
    images = torch.randn(PREDICTED, 3, SIZE, SIZE, generator=generator(0, "bench", "images"))
    if who == "own":
        training = evaluation(width, "own").__self__  # type: ignore[attr-defined]
        return lambda: predict_logits(training.networks[0], images)
    network = PlainConvNet(width).eval()

    def predict() -> Tensor:
        with torch.no_grad():
            return torch.cat([network(part) for part in images.split(256)])

    return predict


def distilling(config: dict[str, Any], who: str) -> Callable[[], object]:
    """An iteration of a backbone: 10 classes, 10 images each, or one with MTT and RTP."""
    distiller = distiller_of({"config": config, "classes": 10, "per_class": 64, "device": "cpu"})
    before = distiller.state()
    if who == "own":
        return lambda: own_step(distiller, before)
    return lambda: PLAIN[config["backbone"]](distiller)


def loop(name: str, width: int, who: str) -> Callable[[], object]:
    """Return one step of a case."""
    if name.startswith(("evaluation", "compiled")):
        kind, _, size = name.partition("-")
        return evaluations(int(size), who, kind == "compiled")
    if name.startswith("side-by-side"):
        return side_by_side(int(name.rpartition("-")[2]), who)
    if name in ("prediction", "experts"):
        return {"prediction": prediction, "experts": experts}[name](width, who)
    config: dict[str, Any] = {"ipc": 10, "iterations": 9, "network": {"width": width}}
    if name == "dsa":
        config |= {"backbone": "dsa", "matching": {"outer": 2, "inner": 1, "real_batch": 64}}
    elif name == "dm":
        config |= {"backbone": "dm", "dm": {"real_batch": 64}}
    elif name == "rtp":
        rtp = {"bases": 4, "steps": 10, "batch_per_class": 1, "real_batch": 16, "gradient": "full"}
        config |= {"backbone": "rtp", "ipc": 1, "rtp": rtp}
    else:
        mtt = {"student_steps": int(name.partition("-")[2]), "expert_epochs": 1, "max_start": 1, "image_lr": 10.0}
        config |= {"backbone": "mtt", "ipc": 1, "mtt": mtt | {"rate_lr": 1e-5, "rate": 0.01, "gradient": "full"}}
    return distilling(config, who)


def serve(name: str, width: int, who: str) -> None:
    """Run a step for every line that comes in, and answer with its CPU seconds."""
    torch.set_num_threads(1)
    if who == "own" or name.startswith("side-by-side"):
        Environment("cpu", 1, compile=name.startswith("compiled")).apply()
    step = loop(name, width, who)
    began = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    step()
    ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(began, ended, strict=True)), flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        step()
        print(time.process_time() - began, flush=True)


def in_turns(name: str, options: argparse.Namespace) -> tuple[list[float], list[float], float]:
    """Return the CPU seconds of each turn, plain and ddcal's, and of ddcal's first step, which compiles where it does.

    Those of a compiler count, which runs in a process of its own.
    """
    cache = tempfile.TemporaryDirectory(prefix="bench-speed-")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment["XDG_CACHE_HOME"] = cache.name
    processes, seconds, first = {}, {"plain": list[float](), "own": list[float]()}, {}
    for who in seconds:
        command = [sys.executable, __file__, "--serve", who, "--cases", name, "--width", str(options.width)]
        processes[who] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
    try:
        for who, process in processes.items():
            assert process.stdout is not None
            first[who] = float(process.stdout.readline())
        for turn in range(options.turns + 1):
            for who, process in processes.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                taken = float(process.stdout.readline())
                if turn:  # the first warms up
                    seconds[who].append(taken)
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait(600)
        cache.cleanup()
    return seconds["plain"], seconds["own"], first["own"]


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--width", type=int, default=128, help="of the network, where the case does not name it")
    parser.add_argument("--serve", choices=("plain", "own"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="Print the seconds too.")
    options = parser.parse_args()
    if options.serve:
        serve(options.cases[0], options.width, options.serve)
        return
    machine = f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}, one thread"
    print(f"== speed beside plain torch, ConvNet-3, width {options.width} ({machine}); {options.turns} turns")
    print(f"   {'case':<16}{'s, plain':>10}{'s, ddcal':>10}{'plain / ddcal':>22}{'target':>8}")
    for name in options.cases:
        plain, own, first = in_turns(name, options)
        ratios = [a / b for a, b in zip(plain, own, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(
            f"   {name:<16}{statistics.median(plain):>10.3f}{statistics.median(own):>10.3f}{ratio:>22}"
            f"{TARGETS[name]:>8.1f}" + (f"   compiled in {first:.0f} s" if name.startswith("compiled") else ""),
            flush=True,
        )
        if options.json:
            print(json.dumps({"case": name, "plain": plain, "own": own}))


if __name__ == "__main__":
    main()
