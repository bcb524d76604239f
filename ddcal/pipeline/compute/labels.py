"""Computing the labels stage: what the mean of several experts answers to the distilled images, and to real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
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
from ddcal.pipeline.stages.experts import expert_keys
from ddcal.pipeline.stages.labels import LABELS
from ddcal.seeding import generator


def compute(place: TrialPlace) -> Found:
    """Return the labels of a trial whose experts are trained and whose set is distilled."""
    synthetic, experts = synthetic_of(place), experts_of(place)
    assert synthetic is not None and experts is not None, "the trial has both"
    config, dataset, device = place.config, place.dataset, torch.device(place.environment.device)
    networks = list(expert_networks(experts, config, dataset, device))
    keys = expert_keys(config, place.fingerprint, place.environment)

    def to_real_images(split: str, images: Tensor) -> Tensor:
        """Ask each expert once: trials that differ in their sets, or in the temperature, ask the same ones again."""
        logits = [
            place.datasets.remembered((key, config.labels.epoch, split), partial(answer, network, images))
            for key, network in zip(keys, networks, strict=False)
        ]
        return mean_probabilities(logits, config.labels.temperature)

    labels = mean_answer(networks, synthetic.images, config.labels.temperature)
    rows = {
        "labels": labels,
        "val": to_real_images("val", dataset.val.images),
        "test": to_real_images("test", dataset.test.images),
    }
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


def answer(network: nn.Module, images: Tensor) -> Tensor:
    """Return a network's logits, float32 (N, K) on the CPU, for float32 images (N, C, S, S), which may be none."""
    if len(images) == 0:
        return predict_logits(network, torch.zeros(1, *images.shape[1:])).cpu()[:0]
    return predict_logits(network, images).cpu()


def mean_probabilities(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return the mean of softmax(logits / temperature), in float64, as float32 (N, K).

    Args:
        logits: float32 (N, K) of each network, on the CPU; of one at least.
        temperature: Above 0; above 1 softer than the networks are.
    """
    total = (logits[0].double() / temperature).softmax(1)
    for one in logits[1:]:
        total = total + (one.double() / temperature).softmax(1)
    return (total / len(logits)).float()


def mean_answer(networks: Sequence[nn.Module], images: Tensor, temperature: float) -> Tensor:
    """Return the `mean_probabilities` of what networks answer to images, float32 (N, K) on the CPU.

    Args:
        networks: Each maps float32 (N, C, S, S) to logits (N, K).
        images: float32 (N, C, S, S).
        temperature: As there.
    """
    return mean_probabilities([answer(network, images) for network in networks], temperature)


def measure(config: TrialConfig, dataset: Dataset, device: str, compiled: bool = False) -> Cost:
    """Return the cost of the answers of one expert."""
    images, _, total = images_like_train(config, dataset, SCORED_IMAGES)
    network = skeleton(dataset, config.distill, generator(config.seed, "plan", "expert")).to(torch.device(device))
    seconds = measuring.seconds_of(lambda: mean_answer([network], images, 1.0), device)
    return Cost(seconds / len(images) * (total + len(dataset.val) + len(dataset.test)))
