"""Computing the labels stage: what the mean of several experts answers to the distilled images, and to real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddcal.config import TrialConfig
from ddcal.data import Dataset
from ddcal.distill import SyntheticSet
from ddcal.distill.experts import Experts, expert_network, skeleton
from ddcal.distill.synthetic import SOFT_LABELS
from ddcal.networks import predict_logits
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.base import Found
from ddcal.pipeline.compute.distill import synthetic_of
from ddcal.pipeline.compute.experts import experts_of
from ddcal.pipeline.costs import Cost
from ddcal.pipeline.measuring import SCORED_IMAGES, images_like_train
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.labels import LABELS
from ddcal.seeding import generator


def compute(place: TrialPlace) -> Found:
    """Return the labels of a trial whose experts are trained and whose set is distilled."""
    synthetic, experts = synthetic_of(place), experts_of(place)
    assert synthetic is not None and experts is not None, "the trial has both"
    config, dataset, device = place.config, place.dataset, torch.device(place.environment.device)
    networks = list(expert_networks(experts, config, dataset, device))
    rows = {
        "labels": mean_answer(networks, synthetic.images, config.labels.temperature),
        "val": mean_answer(networks, dataset.val.images, config.labels.temperature),
        "test": mean_answer(networks, dataset.test.images, config.labels.temperature),
    }
    labels = rows["labels"]
    values = {
        "agreement": float((labels.argmax(1) == synthetic.classes).double().mean()),
        "confidence": float(labels.max(1).values.double().mean()),
        "entropy": float(-torch.xlogy(labels.double(), labels.double()).sum(1).mean()),
    }

    def write(folder: Path) -> None:
        save_file(rows, folder / SOFT_LABELS)

    facts = {f"labels/{name}": value for name, value in values.items()}
    return Found(values, write, {"facts": facts})


def labelled_set(place: TrialPlace) -> SyntheticSet | None:
    """Return the set on which a trial trains its networks: with the labels of the labels stage where it has one.

    None of a trial that trains on all real images.
    """
    synthetic, entry = synthetic_of(place), place.entries.get(LABELS.name)
    if synthetic is None or entry is None:
        return synthetic
    return replace(synthetic, labels=load_file(entry.folder / SOFT_LABELS)["labels"])


def teacher_of(place: TrialPlace) -> dict[str, Tensor] | None:
    """Return the experts' probabilities on ``val`` and ``test``, float32 (N, K); None without such labels."""
    entry = place.entries.get(LABELS.name)
    if entry is None:
        return None
    rows = load_file(entry.folder / SOFT_LABELS)
    return {split: rows[split] for split in ("val", "test")}


def expert_networks(
    experts: Experts, config: TrialConfig, dataset: Dataset, device: torch.device
) -> Iterator[nn.Module]:
    """Yield the first ``labels.experts`` experts as they were after ``labels.epoch`` epochs."""
    epoch = config.labels.epoch
    assert epoch is not None, "the config must be resolved"
    for index in range(config.labels.experts):
        yield expert_network(experts, index, epoch, dataset, config.distill, device)


def mean_answer(networks: list[nn.Module], images: Tensor, temperature: float) -> Tensor:
    """Return the mean of several networks' softmax(logits / temperature), in float64, as float32 (N, K) on the CPU.

    Args:
        networks: Each maps float32 (N, C, S, S) to logits (N, K).
        images: float32 (N, C, S, S).
        temperature: Above 0; above 1 softer than the networks are.
    """
    if len(images) == 0:
        classes = predict_logits(networks[0], torch.zeros(1, *images.shape[1:])).shape[1]
        return torch.zeros(0, classes)
    total: Tensor | None = None
    for network in networks:
        answer = (predict_logits(network, images).cpu().double() / temperature).softmax(1)
        total = answer if total is None else total + answer
    assert total is not None, "there is a network"
    return (total / len(networks)).float()


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of the answers of one expert."""
    images, _, total = images_like_train(config, dataset, SCORED_IMAGES)
    network = skeleton(dataset, config.distill, generator(config.seed, "plan", "expert")).to(torch.device(device))
    seconds = measuring.seconds_of(lambda: mean_answer([network], images, 1.0), device)
    return Cost(seconds / len(images) * (total + len(dataset.val) + len(dataset.test)))
