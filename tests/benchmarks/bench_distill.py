"""What an unrolled loop holds in memory, and every backbone's step beside a plain implementation of the same step.

Run it as a script:

    python tests/benchmarks/bench_distill.py                 # all of it, about 10 minutes of one core
    python tests/benchmarks/bench_distill.py --parts steps --help

Every peak is that of a process of its own: on a CPU the highest resident memory while the step runs, less the resident
memory just before it; on a GPU what torch's allocator held at most, less what it held before. The plain steps are
written here from the definitions, one graph for all that a step differentiates, as one would write them down; they
share with ddcal the drawn numbers and the DSA operations alone. Times are measured in turns in one process; on a CPU
they are CPU seconds, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddcal.config import DistillConfig
from ddcal.data import Dataset, Split
from ddcal.data.augment import augment, draw_augmentation
from ddcal.data.preprocessing import Normalisation
from ddcal.distill import make_distiller
from ddcal.distill.experts import Experts, skeleton
from ddcal.seeding import generator

SIZE, CHANNELS, MB = 32, 3, 1e6
GRAPH_MB = 4.4
"""What a full graph is taken to hold a step and image at width 128, before one was measured."""


def random_dataset(classes: int, per_class: int) -> Dataset:
    """Return noise of CIFAR-10's shape: a step costs the same on any images."""
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = torch.randn(len(labels), CHANNELS, SIZE, SIZE, generator=generator(0, "bench", "images"))
    return Dataset(
        name="cifar10",
        train=Split(images, labels),
        val=Split(images[:0], labels[:0]),
        test=Split(images[:0], labels[:0]),
        num_classes=classes,
        channels=CHANNELS,
        image_size=SIZE,
        class_names=tuple(map(str, range(classes))),
        fingerprint="0" * 64,
        preprocessing=Normalisation(torch.zeros(CHANNELS), torch.ones(CHANNELS)),
    )


def distiller_of(case: dict[str, Any]) -> Any:
    """Return the distiller of a case; MTT gets two epochs of an expert that moved a little."""
    config = DistillConfig.model_validate(case["config"])
    dataset = random_dataset(case["classes"], case["per_class"])
    experts = None
    if config.backbone == "mtt":
        weights = skeleton(dataset, config, generator(0, "bench", "expert")).parameters()
        start = torch.cat([weight.detach().flatten() for weight in weights])
        moves = torch.randn(2, len(start), generator=generator(0, "bench", "moves")) * 0.01
        experts = Experts([torch.stack([start, start + moves[0], start + moves[0] + moves[1]])])
    distiller = make_distiller(dataset, config, 0, case["device"], experts)
    if config.backbone == "mtt":
        distiller.compared = set()  # the first iteration would take the exact gradient beside an approximate one
    return distiller


def learned(distiller: Any) -> list[Tensor]:
    """Return what the distiller's step changes."""
    return distiller.memories if distiller.config.backbone == "rtp" else [distiller.images]


# The plain steps: each returns (loss, [new value of everything learned]) from the distiller's state at iteration 0


def embedding(weights: list[Tensor], images: Tensor) -> Tensor:
    """Return the features of the ConvNet with instance norm (method.md, ConvNet)."""
    for i in range(0, len(weights) - 2, 4):
        kernel, bias, scale, shift = weights[i : i + 4]
        images = F.conv2d(images, kernel, bias, padding=1)
        images = F.relu(F.instance_norm(images, weight=scale, bias=shift))
        images = F.avg_pool2d(images, 2)
    return images.flatten(1)


def logits(weights: list[Tensor], images: Tensor) -> Tensor:
    """Return the logits of the same network."""
    return F.linear(embedding(weights, images), weights[-2], weights[-1])


def plain_matching(own: Any) -> tuple[float, list[Tensor]]:
    """DC and DSA: cosine distance of weight gradients, all classes in one graph."""
    settings, dsa = own.config.matching, own.config.backbone == "dsa"
    draws = {n: generator(own.seed, "distill", n, 0) for n in ("real", "augment", "inner-augment", "order")}
    weights = [w.detach().requires_grad_() for w in own.fresh_network().parameters()]
    images, velocity, losses = own.images.clone(), torch.zeros_like(own.images), []
    ipc = own.config.ipc
    for update in range(own.outer):
        images.requires_grad_()
        total = torch.zeros((), device=images.device)
        for label in range(own.dataset.num_classes):
            real, fake = own.real.draw(label, draws["real"]), images[label * ipc : (label + 1) * ipc]
            if dsa:
                drawn = draw_augmentation(1, SIZE, draws["augment"], siamese=True, device=str(own.device))
                real, fake = augment(real, drawn), augment(fake, drawn)
            target = F.cross_entropy(logits(weights, real), torch.full((len(real),), label, device=real.device))
            found = F.cross_entropy(logits(weights, fake), torch.full((ipc,), label, device=real.device))
            theirs = torch.autograd.grad(target, weights)
            ours = torch.autograd.grad(found, weights, create_graph=True)
            for a, b in zip(ours, theirs, strict=True):
                if a.ndim > 1:
                    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
                    total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        (gradient,) = torch.autograd.grad(total, images)
        losses.append(float(total.detach()))
        velocity = settings.image_momentum * velocity + gradient
        images = (images - settings.image_lr * velocity).detach()
        if update < own.outer - 1:
            for _ in range(own.inner):
                order = torch.randperm(len(images), generator=draws["order"]).to(own.device)
                for chosen in order.split(settings.inner_batch):
                    batch = images[chosen]
                    if dsa:
                        place, count = str(own.device), len(chosen)
                        drawn = draw_augmentation(count, SIZE, draws["inner-augment"], siamese=False, device=place)
                        batch = augment(batch, drawn)
                    loss = F.cross_entropy(logits(weights, batch), own.device_labels[chosen])
                    steps = torch.autograd.grad(loss, weights)
                    new = [w - settings.network_lr * g for w, g in zip(weights, steps, strict=True)]
                    weights = [w.detach().requires_grad_() for w in new]
    return sum(losses) / (own.outer * own.dataset.num_classes), [images]


def plain_dm(own: Any) -> tuple[float, list[Tensor]]:
    """DM: squared difference of mean embeddings, all classes in one graph."""
    draws = {n: generator(own.seed, "distill", n, 0) for n in ("real", "augment")}
    weights = [w.detach() for w in own.fresh_network().parameters()]
    images, ipc = own.images.clone().requires_grad_(), own.config.ipc
    total = torch.zeros((), device=images.device)
    for label in range(own.dataset.num_classes):
        drawn = draw_augmentation(1, SIZE, draws["augment"], siamese=True, device=str(own.device))
        real = embedding(weights, augment(own.real.draw(label, draws["real"]), drawn))
        fake = embedding(weights, augment(images[label * ipc : (label + 1) * ipc], drawn))
        total = total + ((fake.mean(0) - real.mean(0)) ** 2).sum()
    (gradient,) = torch.autograd.grad(total, images)
    return float(total.detach()) / own.dataset.num_classes, [(images - own.config.dm.image_lr * gradient).detach()]


def plain_mtt(own: Any) -> tuple[float, list[Tensor]]:
    """MTT: SGD steps with their graph kept, and the distance to the expert's weights."""
    draws = generator(own.seed, "distill", "trajectory", 0)
    expert = int(torch.randint(len(own.experts), (1,), generator=draws))
    begin = int(torch.randint(own.max_start, (1,), generator=draws))
    start, target = (own.experts.weights(expert, begin + n).to(own.device) for n in (0, own.expert_epochs))
    images, rate = own.images.clone().requires_grad_(), torch.tensor(own.learning_rate, requires_grad=True)
    shapes = [p.shape for p in own.network.parameters()]
    vector = start.clone().requires_grad_()
    for step, chosen in enumerate(own._batches()):
        parts = vector.split([shape.numel() for shape in shapes])
        weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        draws = generator(own.seed, "distill", f"augment-{step}", 0)
        drawn = draw_augmentation(len(chosen), SIZE, draws, siamese=False, device=str(own.device))
        loss = F.cross_entropy(logits(weights, augment(images[chosen], drawn)), own.device_labels[chosen])
        (gradient,) = torch.autograd.grad(loss, vector, create_graph=True)
        vector = vector - rate * gradient
    distance = (vector - target).square().sum() / (start - target).square().sum()
    gradient, _ = torch.autograd.grad(distance, [images, rate])
    return float(distance.detach()), [(images - own.image_lr * gradient).detach()]


def plain_rtp(own: Any) -> tuple[float, list[Tensor]]:
    """RTP: decode once, SGD steps with momentum and their graph kept, the loss on real images, a clipped step."""
    settings = own.settings
    bases, coefficients = [m.clone().requires_grad_() for m in own.memories]
    drawn = draw_augmentation(1, SIZE, generator(own.seed, "distill", "augment", 0), siamese=True, device=own.device)
    draws = generator(own.seed, "distill", "real", 0)
    batches = [own.real.draw(label, draws) for label in range(own.dataset.num_classes)]
    targets = torch.cat([torch.full((len(b),), k, device=own.device) for k, b in enumerate(batches)])
    labels = own.labels.to(own.device)
    enlarged = F.interpolate(bases, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    images = (coefficients @ enlarged.flatten(1)).view(-1, CHANNELS, SIZE, SIZE)
    weights = [w.requires_grad_() for w in own._fresh_weights()]
    velocity = [torch.zeros_like(w) for w in weights]
    for chosen in own._chosen():
        loss = F.cross_entropy(logits(weights, augment(images[chosen], drawn)), labels[chosen])
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        velocity = [settings.inner_momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        weights = [w - settings.inner_lr * v for w, v in zip(weights, velocity, strict=True)]
    outer = F.cross_entropy(logits(weights, augment(torch.cat(batches), drawn)), targets)
    found = torch.autograd.grad(outer, [bases, coefficients])
    norm = torch.cat([g.flatten() for g in found]).norm()
    scale = min(1.0, settings.clip / (float(norm) + 1e-6))
    return float(outer.detach()), [m - settings.lr * scale * g for m, g in zip(own.memories, found, strict=True)]


PLAIN: dict[str, Callable[[Any], tuple[float, list[Tensor]]]] = {
    "dc": plain_matching,
    "dsa": plain_matching,
    "dm": plain_dm,
    "mtt": plain_mtt,
    "rtp": plain_rtp,
}


# What a process of its own does


def own_step(distiller: Any, before: dict[str, Tensor]) -> tuple[float, list[Tensor]]:
    """Run the distiller's first iteration from its first state."""
    distiller.restore(before)
    return distiller.step(), learned(distiller)


def peak_of(case: dict[str, Any]) -> dict[str, Any]:
    """Measure the peak memory and the seconds of one step, after one of a single inner step."""
    small = json.loads(json.dumps(case))
    small["config"] |= {"mtt": small["config"].get("mtt", {}) | {"student_steps": 1}}
    small["config"] |= {"rtp": small["config"].get("rtp", {}) | {"steps": 1}}
    step(distiller_of(small), case["who"])
    distiller = distiller_of(case)
    if case["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), clock("cuda")
        step(distiller, case["who"])
        return {"peak": torch.cuda.max_memory_allocated() - before, "seconds": clock("cuda") - began}
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident memory starts again
    before, began = resident("VmRSS"), clock("cpu")
    step(distiller, case["who"])
    return {"peak": resident("VmHWM") - before, "seconds": clock("cpu") - began}


def turns_of(case: dict[str, Any]) -> dict[str, Any]:
    """Time both in turns, and compare what they compute."""
    distiller = distiller_of(case)
    before, device, plain = distiller.state(), case["device"], PLAIN[distiller.config.backbone]
    seconds: dict[str, list[float]] = {"own": [], "plain": []}
    start = [value.clone() for value in learned(distiller)]
    for turn in range(case["turns"] + 1):
        distiller.restore(before)
        began = clock(device)
        loss, wanted = plain(distiller)
        middle = clock(device)
        found, values = own_step(distiller, before)
        if turn:  # the first warms up
            seconds["plain"].append(middle - began)
            seconds["own"].append(clock(device) - middle)
    moved = torch.cat([(w - s).flatten() for w, s in zip(wanted, start, strict=True)]).double()
    mine = torch.cat([(v - s).flatten() for v, s in zip(values, start, strict=True)]).double()
    error = float((mine - moved).norm() / moved.norm())
    return {"seconds": seconds, "loss_error": abs(found - loss) / abs(loss), "update_error": error}


def step(distiller: Any, who: str) -> None:
    """Run one step."""
    if who == "own":
        distiller.step()
    else:
        PLAIN[distiller.config.backbone](distiller)


def resident(name: str) -> int:
    """Return a line of this process's status in bytes: ``VmRSS`` or ``VmHWM``."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def clock(device: str) -> float:
    """Return the time once the device has done what it was told: on a CPU this process's own, whatever others do."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(case: dict[str, Any], threads: int) -> dict[str, Any]:
    """Run a case in a process of its own."""
    settings = {"OMP_NUM_THREADS": str(threads)}
    if case["kind"] == "peak":  # tensors come from, and go back to, the operating system at once
        settings["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# The parts


def unroll_case(options: argparse.Namespace, steps: int, gradient: str) -> dict[str, Any]:
    """MTT on ``batch`` images, all of the set in every step."""
    mtt = {"student_steps": steps, "expert_epochs": 1, "max_start": 1, "image_lr": 1.0, "rate_lr": 1e-5, "rate": 0.01}
    config = {"backbone": "mtt", "ipc": 1, "mtt": mtt | {"gradient": gradient}, "network": {"width": options.width}}
    return {"kind": "peak", "who": "own", "config": config, "classes": options.batch, "per_class": 4}


def unroll_part(options: argparse.Namespace) -> None:
    """Peak memory against the number of unrolled steps."""
    classes, methods = options.batch, ("full", "exact", "segments", "tesla")
    dataset = random_dataset(classes, 1)
    config = DistillConfig.model_validate({"network": {"width": options.width}})
    vector = 4 * sum(p.numel() for p in skeleton(dataset, config, generator(0, "bench", "expert")).parameters()) / MB
    print(f"\n== unroll: MTT, ConvNet-3, width {options.width}, batch {options.batch}; peak MB (seconds)")
    print(f"   {'steps':<6}{''.join(f'{method:>20}' for method in methods)}{'N vectors':>14}")
    peaks: dict[tuple[str, int], float] = {}
    for steps in options.steps:
        cells = []
        for method in methods:
            if method == "full" and graph_megabytes(options.width, steps * options.batch) > options.full_limit:
                cells.append("-")
                continue
            found = measure(unroll_case(options, steps, method) | {"device": options.device}, options.threads)
            peaks[method, steps] = found["peak"] / MB
            cells.append(f"{found['peak'] / MB:.0f} ({found['seconds']:.1f})")
        print(f"   {steps:<6}{''.join(f'{cell:>20}' for cell in cells)}{steps * vector:>14.0f}", flush=True)
    for method in methods:
        known = [steps for steps in options.steps if (method, steps) in peaks]
        if len(known) > 1:
            grown = (peaks[method, known[-1]] - peaks[method, known[0]]) / (known[-1] - known[0])
            graph = f", {grown / options.batch:.2f} MB a step and image" if method == "full" else ""
            print(f"   {method:<9} grows by {grown:6.2f} MB a step: {grown / vector:.2f} parameter vectors{graph}")


def rtp_part(options: argparse.Namespace) -> None:
    """Peak memory of RTP at its published number of steps."""
    print(f"\n== rtp: 20 images a step, width {options.width}, momentum 0.9; peak MB (seconds)")
    first, peaks = max(1, options.rtp_steps // 10), {}
    for method, steps in (
        ("full", first),
        ("full", options.rtp_steps),
        ("exact", first),
        ("exact", options.rtp_steps),
        ("segments", options.rtp_steps),
    ):
        if method == "full" and graph_megabytes(options.width, steps * 20) > options.full_limit:
            guess = f", about {peaks[method] * steps / first:.0f} MB by those of {first}" if method in peaks else ""
            print(f"   {method:<9} {steps:>4} steps: not run{guess}")
            continue
        rtp = {"bases": 16, "steps": steps, "batch_per_class": 2, "real_batch": 2, "gradient": method}
        config = {"backbone": "rtp", "ipc": 1, "rtp": rtp, "network": {"width": options.width}}
        case = {"kind": "peak", "who": "own", "config": config, "classes": 10, "per_class": 4}
        found = measure(case | {"device": options.device}, options.threads)
        peaks[method] = found["peak"] / MB
        print(f"   {method:<9} {steps:>4} steps: {found['peak'] / MB:.0f} ({found['seconds']:.1f})", flush=True)


def graph_megabytes(width: int, images: int) -> float:
    """Return about what a full graph over so many images holds."""
    return GRAPH_MB * width / 128 * images


def steps_part(options: argparse.Namespace) -> None:
    """Every backbone's step beside the plain one."""
    classes, ipc, real = options.classes, options.ipc, options.real_batch
    matching = {"outer": 2, "inner": 2, "real_batch": real}
    mtt = {"student_steps": options.inner_steps, "expert_epochs": 1, "max_start": 1, "image_lr": 10.0}
    mtt |= {"rate_lr": 1e-5, "rate": 0.01}
    rtp = {"bases": 4, "steps": options.inner_steps, "batch_per_class": ipc, "real_batch": real // 4}
    rows = [("dc", {"matching": matching | {"init": "real"}}), ("dsa", {"matching": matching})]
    rows += [("dm", {"dm": {"real_batch": real}})]
    rows += [("mtt", {"mtt": mtt | {"gradient": method}}) for method in ("exact", "full")]
    rows += [("rtp", {"rtp": rtp | {"gradient": method}}) for method in ("exact", "full")]
    print(
        f"\n== steps: width {options.width}, {classes} classes, ipc {ipc}, {real} real a class; DC/DSA 2 updates and ",
        end="",
    )
    print(f"2 epochs between, MTT/RTP {options.inner_steps} inner steps of {classes * ipc} images; medians of turns")
    print(
        f"   {'':<12}{'s, ddcal':>10}{'s, plain':>10}{'ratio':>18}{'MB, ddcal':>11}{'MB, plain':>11}{'ratio':>7}",
        end="",
    )
    print(f"{'loss':>10}{'update':>10}  (relative errors)")
    for backbone, settings in (row for row in rows if row[0] in options.backbones):
        config = {"backbone": backbone, "ipc": ipc, "iterations": 9, "network": {"width": options.width}, **settings}
        case = {"config": config, "classes": classes, "per_class": real, "device": options.device}
        turns = measure(case | {"kind": "turns", "turns": options.turns}, options.threads)
        own, plain = (measure(case | {"kind": "peak", "who": who}, options.threads)["peak"] / MB for who in PEAKS)
        pairs = [a / b for a, b in zip(turns["seconds"]["own"], turns["seconds"]["plain"], strict=True)]
        middle = {who: statistics.median(taken) for who, taken in turns["seconds"].items()}
        method = settings.get(backbone, {}).get("gradient")
        name = f"{backbone} {method}" if method else backbone
        ratio = f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})"
        print(
            f"   {name:<12}{middle['own']:>10.3f}{middle['plain']:>10.3f}{ratio:>18}{own:>11.0f}{plain:>11.0f}", end=""
        )
        print(f"{own / plain:>7.2f}{turns['loss_error']:>10.1e}{turns['update_error']:>10.1e}", flush=True)


PEAKS = ("own", "plain")
KINDS = {"peak": peak_of, "turns": turns_of}
PARTS = {"unroll": unroll_part, "rtp": rtp_part, "steps": steps_part}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40, 80], help="unrolled (unroll)")
    parser.add_argument("--batch", type=int, default=10, help="images a step (unroll)")
    parser.add_argument("--full-limit", type=float, default=6000.0, help="MB beyond which no full graph is tried")
    parser.add_argument("--rtp-steps", type=int, default=150)
    parser.add_argument("--backbones", nargs="+", choices=PLAIN, default=list(PLAIN), help="(steps)")
    parser.add_argument("--classes", type=int, default=4, help="(steps)")
    parser.add_argument("--ipc", type=int, default=4, help="(steps)")
    parser.add_argument("--real-batch", type=int, default=32, help="a class (steps)")
    parser.add_argument("--inner-steps", type=int, default=5, help="of MTT and RTP (steps)")
    parser.add_argument("--turns", type=int, default=3, help="(steps)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case = json.loads(options.case)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        print(json.dumps(KINDS[case["kind"]](case)))
        return
    place = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {place}; python {platform.python_version()}, ", end="")
    print(f"torch {torch.__version__}; load {os.getloadavg()[0]:.1f} at the start")
    began = time.monotonic()
    for part in options.parts:
        PARTS[part](options)
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
