"""The evaluation: 5 networks, 1,000 epochs each, on 100 distilled images, beside plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench_speed import PlainConvNet
from torch.nn import functional as F

from ddcal.data.augment import augment, draw_augmentation
from ddcal.seeding import generator
from ddcal.training import DDNNTraining
from measuring.cases import recipe, training_set
from measuring.task import Row, Task, in_turns, seconds, spread, with_peak

GOAL = 3.0
"""Seconds, on an H100."""
CHUNK = 20
"""Epochs between two looks at the time."""


def measure(task: Task) -> Iterator[Row]:
    """Yield the whole evaluation as far as the time goes, and an epoch beside plain torch."""
    with task.on_the_device():
        epoch, plain = training(task, 1).step, plain_epoch(task)
        peaks = {"own": with_peak(epoch)[1], "plain": with_peak(plain)[1]}
        taken = in_turns({"own": epoch, "plain": plain}, task.part(0.2))
        yield {"name": "one epoch", **taken, "own_bytes": peaks["own"], "plain_bytes": peaks["plain"]}
        yield whole(task, 5)


def whole(task: Task, networks: int, **switches: Any) -> Row:
    """Return the row of a whole evaluation; where the time does not suffice, of what it would take at its rate."""
    work, chunks = training(task, networks, **switches), list[float]()
    chunk = 1 if task.pretended else CHUNK
    while work.epoch < work.epochs and (not chunks or task.left > 0.0):
        chunks.append(seconds(lambda: [work.step() for _ in range(min(chunk, work.epochs - work.epoch))]))
    total = sum(chunks)
    return {
        "name": f"{networks} x {work.epochs}",
        "seconds": total * work.epochs / work.epoch,
        "epochs": work.epoch,
        "of": work.epochs,
        "chunks": spread(chunks),
        "goal": None if task.pretended else GOAL,
    }


def training(task: Task, networks: int, **switches: Any) -> DDNNTraining:
    """Return a training of networks on the device."""
    images, labels = training_set(task)
    sides: dict[str, Any] = {"num_classes": 10, "flip": True, "seed": 0, "device": "cuda"}
    return DDNNTraining(images, labels, recipe(task, networks), **sides, **switches)


def plain_epoch(task: Task) -> Callable[[], object]:
    """Return an epoch of one network as one would write it: torch's layers, numbers drawn and moved as they come."""
    images, labels = (tensor.to("cuda") for tensor in training_set(task))
    config = recipe(task, 1)
    network = PlainConvNet(int(config.network.width or 128)).to("cuda")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    draws = generator(0, "bench", "plain")

    def epoch() -> None:
        for chosen in torch.randperm(len(images), generator=draws).split(256):
            drawn = draw_augmentation(len(chosen), 32, draws, siamese=False, device="cuda")
            loss = F.cross_entropy(network(augment(images[chosen], drawn)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch
