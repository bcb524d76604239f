"""A trial's calibrated network as one module: images as people have them in, calibrated probabilities out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddcal.config import TrialConfig
from ddcal.data import Dataset, Preprocessing
from ddcal.data.preprocessing import Whitening, normalise, whiten
from ddcal.errors import BadInput
from ddcal.pipeline.compute.train import load_networks


class Preprocess(nn.Module):
    """The preprocessing that was fitted on the training images; its tensors are buffers of the module."""

    mean: Tensor
    scale: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.whitens = isinstance(preprocessing, Whitening)
        self.register_buffer("mean", preprocessing.mean)
        self.register_buffer(
            "scale", preprocessing.matrix if isinstance(preprocessing, Whitening) else preprocessing.std
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return network inputs (N, C, H, W) of [0, 1] images (N, C, H, W)."""
        return (whiten if self.whitens else normalise)(images, self.mean, self.scale)


class Temperature(nn.Module):
    """softmax(logits / T): logits (N, K) to probabilities (N, K), both float32."""

    temperature: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """Return the calibrated probabilities of logits (N, K)."""
        return torch.softmax(logits / self.temperature, dim=1)


class CalibratedModel(nn.Module):
    """Preprocessing, network and calibration one after another, in ``eval()`` mode and without gradients.

    Every operation can be traced for any number of images, so that the whole is one exported program.

    Args:
        preprocessing: What was fitted on the training images.
        network: Maps network inputs (N, C, S, S) to logits (N, K).
        calibration: Maps logits (N, K) to probabilities (N, K).
    """

    def __init__(self, preprocessing: Preprocessing, network: nn.Module, calibration: nn.Module) -> None:
        super().__init__()
        self.preprocess = Preprocess(preprocessing)
        self.network = network
        self.calibration = calibration
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return calibrated probabilities, float32 (N, K), of images float32 (N, C, S, S) in [0, 1]."""
        return self.calibration(self.network(self.preprocess(images)))


def calibration_module(method: str, fit: dict[str, Any]) -> nn.Module:
    """Return what maps a network's logits to its calibrated probabilities.

    Args:
        method: ``calibrate.method``, for the error.
        fit: The network's record in the calibrate stage's ``fits``.

    Raises:
        BadInput: if the method has not fitted one temperature.
    """
    if "calibrator" in fit or not isinstance(fit.get("temperature"), float | int):  # one with more than a temperature
        raise BadInput(
            f"calibrate.method is {method!r}, which has no single temperature: a model can be made of the methods "
            "that fit one (none, ts_train, ts_holdout, ts_cv, ts_val, mts, mts_distilled)"
        )
    return Temperature(float(fit["temperature"]))


def calibrated_model(
    config: TrialConfig, dataset: Dataset, weights: dict[str, Tensor], fits: list[dict[str, Any]], network: int
) -> CalibratedModel:
    """Return one network of a finished trial with its preprocessing and its calibration, on the CPU.

    Its probabilities on an image are those that ``evaluate`` scores, up to the rounding of float32.

    Args:
        config: Resolved.
        dataset: The trial's real data, for the preprocessing that was fitted on it.
        weights: The train stage's ``networks.safetensors``.
        fits: The calibrate stage's records, one a network.
        network: Which network, from 0.

    Raises:
        BadInput: as `calibration_module`.
    """
    calibration = calibration_module(config.calibrate.method, fits[network])
    return CalibratedModel(dataset.preprocessing, load_networks(weights, config, dataset)[network], calibration)
