"""Calibration of classifiers: metrics, temperature scaling, masked temperature scaling, reliability diagrams."""

from ddcal.calibration.masked import masked_temperature_scaling
from ddcal.calibration.metrics import (
    ReliabilityBins,
    accuracy,
    adaptive_ece,
    brier_score,
    classwise_ece,
    ece_noise_floor,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
    score,
    score_probabilities,
)
from ddcal.calibration.reliability import plot_reliability, save_figure
from ddcal.calibration.temperature import CalibrationError, TemperatureFit, fit_temperature

__all__ = [
    "CalibrationError",
    "ReliabilityBins",
    "TemperatureFit",
    "accuracy",
    "adaptive_ece",
    "brier_score",
    "classwise_ece",
    "ece_noise_floor",
    "expected_calibration_error",
    "fit_temperature",
    "masked_temperature_scaling",
    "negative_log_likelihood",
    "plot_reliability",
    "reliability_bins",
    "save_figure",
    "score",
    "score_probabilities",
]
