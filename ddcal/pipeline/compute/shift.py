"""What an evaluation measures if ``evaluate.shift`` asks for it: corrupted test images, and images of other data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddcal.calibration import Calibrator, TemperatureScaling
from ddcal.calibration.checks import Floats
from ddcal.calibration.metrics.binned import top1_ece
from ddcal.calibration.metrics.predictions import Predictions, predict, predict_from_probabilities
from ddcal.calibration.metrics.separation import separation
from ddcal.config import TrialConfig
from ddcal.config.datasets import other_data, other_label
from ddcal.data import DataError, Dataset
from ddcal.data.corruptions import STRENGTHS, corrupted
from ddcal.data.other import drawn_rows, other_test_images
from ddcal.networks import predict_logits
from ddcal.pipeline import measuring
from ddcal.pipeline.compute.train import logits_of, networks_of
from ddcal.pipeline.measuring import SCORED_IMAGES
from ddcal.pipeline.place import TrialPlace
from ddcal.pipeline.stages.evaluate import EVALUATE
from ddcal.seeding import generator

SCORES = ("accuracy", "ece", "nll")
BATCH = 512
"""Images that are corrupted at once: bounds memory."""


@dataclass(frozen=True, eq=False)
class Shifted:
    """What a trial's networks answer where images change; logits are float32 (n, N, K) on the CPU.

    Attributes:
        labels: Of the test images that were taken, int64 (N,).
        clean: Of these images as they are.
        corrupted: (corruption, strength) → of these images corrupted.
        others: Label → of other data's test images.
    """

    labels: Tensor
    clean: Tensor
    corrupted: Mapping[tuple[str, int], Tensor]
    others: Mapping[str, Tensor]


def shifted_logits(place: TrialPlace) -> Shifted | None:
    """Return what the networks of a trial's finished train stage answer; None where ``evaluate.shift`` asks nothing.

    Raises:
        ddcal.data.DataError: if other data is missing or does not fit, or has changed since the trial's keys were made.
    """
    asked = place.config.evaluate.shift
    if not asked.asked:
        return None
    config, dataset, logits = place.config, place.dataset, logits_of(place)
    networks, rows = networks_of(place), drawn_rows(len(dataset.test), asked.images)
    others = {}
    for entry in sorted(set(asked.datasets)):
        pixels = other_test_images(other_data(entry, config.data), dataset.channels, dataset.image_size, asked.images)
        others[other_label(entry)] = torch.cat(
            [_answers(networks, batch, dataset, place.environment.device) for batch in pixels.split(BATCH)], dim=1
        )
    if others and EVALUATE.key(config, place.fingerprint, place.environment, place.keys) != place.keys[EVALUATE.name]:
        raise DataError(
            f"evaluate.shift.datasets: the data of {', '.join(others)} changed after the trial began: put back what "
            "was there, or begin the trial again"
        )
    return Shifted(
        logits["test_labels"][rows],
        logits["test_logits"][:, rows],
        _corrupted_answers(config, dataset, networks, rows, place.environment.device),
        others,
    )


def shift_metrics(
    config: TrialConfig, shifted: Shifted, calibrations: Mapping[str, Sequence[Calibrator]]
) -> dict[str, float]:
    """Return the metrics of ``evaluate.shift``, as name → float, means over the networks.

    ``test/shift/noise-3/ece`` is of noise at strength 3, ``test/shift/noise/ece`` the mean over the strengths,
    ``test/shift/all/ece`` that over everything, ``test/shift/clean/ece`` of the same images as they are; so are
    accuracy and nll. ``test/ood/<dataset>/auroc`` and ``fpr95`` tell own images from others by the largest probability.
    All exist for every calibration, as ``test/raw/shift/noise-3/ece``; ``test/raw/ood/<dataset>/energy/auroc`` and
    ``fpr95`` take the logarithm of the sum of the exponentials of the logits instead (Liu et al., "Energy-based
    Out-of-distribution Detection", NeurIPS 2020).

    Args:
        config: Resolved.
        shifted: What the networks answer.
        calibrations: Calibration → one calibrator a network; "" is the trial's own.
    """
    found, labels, bins = dict[str, float](), shifted.labels, config.evaluate.bins
    asked = dict.fromkeys(corruption for corruption, _ in shifted.corrupted)
    for calibration, each in calibrations.items():
        prefix = f"test/{calibration}/" if calibration else "test/"

        def scores(logits: Tensor, each: Sequence[Calibrator] = each) -> dict[str, float]:
            of_networks = [_scores(_predictions(one, logits[index], labels), bins) for index, one in enumerate(each)]
            return {name: _mean([one[name] for one in of_networks]) for name in SCORES}

        def put(what: str, values: Mapping[str, float], prefix: str = prefix) -> None:
            found.update({f"{prefix}shift/{what}/{name}": value for name, value in values.items()})

        if asked:
            put("clean", scores(shifted.clean))
        means = []
        for corruption in asked:
            at = [scores(shifted.corrupted[corruption, strength]) for strength in STRENGTHS]
            for strength, values in zip(STRENGTHS, at, strict=True):
                put(f"{corruption}-{strength}", values)
            means.append({name: _mean([one[name] for one in at]) for name in SCORES})
            put(corruption, means[-1])
        if asked:
            put("all", {name: _mean([one[name] for one in means]) for name in SCORES})
        for label, logits in shifted.others.items():
            apart = [
                separation(_largest(one, shifted.clean[index]), _largest(one, logits[index]))
                for index, one in enumerate(each)
            ]
            found[f"{prefix}ood/{label}/auroc"] = _mean([one.auroc for one in apart])
            found[f"{prefix}ood/{label}/fpr95"] = _mean([one.fpr95 for one in apart])
    for label, logits in shifted.others.items():
        apart = [separation(_energy(own), _energy(other)) for own, other in zip(shifted.clean, logits, strict=True)]
        found[f"test/raw/ood/{label}/energy/auroc"] = _mean([one.auroc for one in apart])
        found[f"test/raw/ood/{label}/energy/fpr95"] = _mean([one.fpr95 for one in apart])
    return found


def shift_seconds(config: TrialConfig, dataset: Dataset, device: str) -> float:
    """Return the seconds that ``evaluate.shift`` takes, from a few of its images; 0 where it asks nothing."""
    asked = config.evaluate.shift
    if not asked.asked or len(dataset.test) == 0:
        return 0.0
    network = measuring.untrained_network(config, dataset, device)
    rows = torch.arange(min(len(dataset.test), asked.images, SCORED_IMAGES // 4))
    answers = measuring.seconds_of(lambda: _answers([network], _pixels(dataset, rows), dataset, device), device)
    answers *= config.train.networks * len(asked.datasets)
    if asked.corruptions:
        answers += measuring.seconds_of(
            lambda: _corrupted_answers(config, dataset, [network] * config.train.networks, rows, device),
            device,
        )
    return answers * min(len(dataset.test), asked.images) / len(rows)


def _corrupted_answers(
    config: TrialConfig, dataset: Dataset, networks: Sequence[nn.Module], rows: Tensor, device: str
) -> dict[tuple[str, int], Tensor]:
    kinds = list(_kinds(config))
    streams = {kind: generator(config.seed, "evaluate", f"shift-{kind[0]}", kind[1]) for kind in kinds}
    parts: dict[tuple[str, int], list[Tensor]] = {kind: [] for kind in kinds}
    for batch in rows.split(BATCH) if kinds else ():
        pixels = _pixels(dataset, batch)
        for kind in kinds:
            parts[kind].append(_answers(networks, corrupted(pixels, *kind, streams[kind]), dataset, device))
    return {kind: torch.cat(each, dim=1) for kind, each in parts.items()}


def _kinds(config: TrialConfig) -> Iterator[tuple[str, int]]:
    for corruption in sorted(set(config.evaluate.shift.corruptions)):
        yield from ((corruption, strength) for strength in STRENGTHS)


def _pixels(dataset: Dataset, rows: Tensor) -> Tensor:
    """Return test images as they were before their preprocessing, float32 (n, C, S, S) in [0, 1]."""
    return dataset.inverse_transform(dataset.test.images[rows])


def _answers(networks: Sequence[nn.Module], pixels: Tensor, dataset: Dataset, device: str) -> Tensor:
    """Return the logits (n, N, K) of images in [0, 1], which are preprocessed as the trial's own are."""
    inputs = dataset.preprocessing.transform(pixels.to(device))
    return torch.stack([predict_logits(network, inputs).cpu() for network in networks])


def _predictions(calibrator: Calibrator, logits: Tensor, labels: Tensor) -> Predictions:
    if isinstance(calibrator, TemperatureScaling):
        assert calibrator.temperature is not None
        return predict(logits, labels, calibrator.temperature)
    return predict_from_probabilities(calibrator.probabilities(logits), labels)


def _scores(predictions: Predictions, bins: int) -> dict[str, float]:
    found = (predictions.correct.mean(), top1_ece(predictions, bins), predictions.nll.mean())
    return dict(zip(SCORES, map(float, found), strict=True))


def _largest(calibrator: Calibrator, logits: Tensor) -> Floats:
    """Return the largest probability of each image, (N,)."""
    return _predictions(calibrator, logits, torch.zeros(len(logits), dtype=torch.int64)).confidence


def _energy(logits: Tensor) -> Floats:
    energy: Floats = logits.double().logsumexp(dim=1).numpy()
    return energy


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
