"""Masked Temperature Scaling (MTS): a temperature from masked training images, without real labels (method.md, MTS)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ddcal.calibration.checks import check_count
from ddcal.calibration.metrics.scores import accuracy
from ddcal.calibration.temperature import TemperatureFit, check_bounds, check_solver, fit_temperature
from ddcal.masking import MaskUnit, mask_images
from ddcal.networks import predict_logits
from ddcal.seeding import generator
from ddcal.soft_labels import repeated, targets

BATCH = 512
"""Images that are masked at a time; bounds memory."""


def masked_temperature_scaling(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    mask_ratio: float,
    bounds: tuple[float, float] = (1.0, 20.0),
    draws: int = 1,
    seed: int = 0,
    solver: str = "bounded",
    unit: MaskUnit = "element",
) -> TemperatureFit:
    """Return the temperature fitted on the network's logits of masked images, pooled over mask draws.

    Under soft labels q the target of a masked image is its q, and the fit has the least cross-entropy to it.

    Every class counts equally: of each class in ``labels`` the first n images are used, n being the size of the
    smallest class (`first_per_class`); their order stays. Draw i is masked by
    ``generator(seed, "calibrate", "mask", i)`` on the CPU, so results do not depend on the device's random numbers,
    and more draws extend fewer. Networks are evaluated in eval mode without gradients.

    Ratio 0 **is** temperature scaling on the images, to the bit: all images given are used, balanced or not, and
    ``draws`` counts as 1, because every draw would be the same.

    Args:
        network: Maps float32 (B, C, H, W) to logits (B, K).
        images: (N, C, H, W) float32 as the network was trained on them (after ZCA or normalisation).
        labels: (N,) integers in 0..K-1; or probabilities (N, K), of which all images count, whatever their classes.
        mask_ratio: Chance that an element is set to 0, in [0, 1]; 0.9 for images the network was trained on.
        bounds: Lowest and highest temperature. On images the network was trained on, a floor of 1 keeps the fit from
            sharpening the network.
        draws: Number of mask draws, at least 1; the logits of all are pooled into one fit.
        seed: The trial's seed.
        solver: As `fit_temperature`.
        unit: What is masked as one: "element", "pixel" or "patch" (`ddcal.masking.random_mask`).

    Returns:
        The fit on the pooled logits, with the temperature of each draw in ``draws`` and the accuracy on the masked
        images in ``masked_accuracy``.

    Raises:
        ValueError: ``mask_ratio`` outside [0, 1], ``draws`` below 1, lengths that differ, no image, or what
            `fit_temperature` refuses.
        CalibrationError: As `fit_temperature`.
    """
    check_bounds(bounds)
    check_solver(solver)
    logits, used = masked_logits(network, images, labels, mask_ratio, draws, seed, unit)
    return fit_masked(logits, used, bounds, solver)


def masked_logits(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    mask_ratio: float,
    draws: int = 1,
    seed: int = 0,
    unit: MaskUnit = "element",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the network's logits of the masked images, draw by draw, and the labels of the images that were used.

    Draw i at one ratio masks what it masks at every smaller ratio, and more, as the same uniform numbers decide.

    Args:
        network: As `masked_temperature_scaling`, like all that follows.
        images: (N, C, H, W) float32.
        labels: (N,) integers, or probabilities (N, K); one-hot rows are classes.
        mask_ratio: In [0, 1]; at 0 all images are used and there is one draw.
        draws: At least 1.
        seed: The trial's seed.
        unit: What is masked as one.

    Returns:
        float32 (draws, M, K) and the labels (M,), M being the images of which every class has the same number; or all
        images with their probabilities (M, K).

    Raises:
        ValueError: As `masked_temperature_scaling`.
    """
    if not 0.0 <= mask_ratio <= 1.0:
        raise ValueError(f"mask_ratio is {mask_ratio!r}; it must be in [0, 1]")
    draws = check_count("draws", draws)
    if labels.ndim not in (1, 2) or len(images) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and images {tuple(images.shape)}; "
            "there must be one label an image, and at least one image"
        )
    labels = targets(labels)
    if mask_ratio == 0.0:
        draws = 1
    elif labels.ndim == 1:
        chosen = first_per_class(labels)
        images, labels = images[chosen.to(images.device)], labels[chosen.to(labels.device)]
    logits = []
    for draw in range(draws):
        stream = generator(seed, "calibrate", "mask", draw)  # its numbers do not depend on where batches end
        batches = (mask_images(batch, mask_ratio, stream, unit=unit) for batch in images.split(BATCH))
        logits.append(torch.cat([predict_logits(network, batch) for batch in batches]))
    return torch.stack(logits), labels


def fit_masked(
    logits: torch.Tensor, labels: torch.Tensor, bounds: tuple[float, float], solver: str = "bounded"
) -> TemperatureFit:
    """Return the temperature of masked logits, pooled over draws.

    Args:
        logits: (draws, M, K), from `masked_logits`.
        labels: (M,) or (M, K), the same for every draw.
        bounds: Lowest and highest temperature.
        solver: As `fit_temperature`.

    Returns:
        As `masked_temperature_scaling`.

    Raises:
        ValueError, CalibrationError: As `fit_temperature`.
    """
    draws = len(logits)
    pooled, pooled_labels = logits.flatten(0, 1), repeated(labels, draws)
    fit = fit_temperature(pooled, pooled_labels, bounds, solver)
    each = [fit] if draws == 1 else [fit_temperature(of_draw, labels, bounds, solver) for of_draw in logits]
    return replace(fit, draws=tuple(one.temperature for one in each), masked_accuracy=accuracy(pooled, pooled_labels))


def first_per_class(labels: torch.Tensor) -> torch.Tensor:
    """Return the indices, rising, of the first n images of each class, n being the size of the smallest class present.

    Args:
        labels: (N,) integers.

    Returns:
        (M,) int64 on the CPU; all of 0..N-1 where the classes are balanced already.
    """
    here = labels.cpu()  # once: each look makes a GPU's host wait
    classes, counts = torch.unique(here, return_counts=True)
    of_class = [torch.nonzero(here == one)[: int(counts.min()), 0] for one in classes]
    return torch.cat(of_class).sort().values
