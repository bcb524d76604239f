"""Calibration of classifiers: metrics, temperature scaling, masked temperature scaling, reliability diagrams."""

from ddcal.calibration.binned import (
    BrierParts,
    ReliabilityBins,
    brier_decomposition,
    classwise_ece,
    ece_noise_floor,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
)
from ddcal.calibration.bootstrap import Interval, bootstrap_difference, bootstrap_intervals
from ddcal.calibration.masked import masked_temperature_scaling
from ddcal.calibration.metrics import accuracy, brier_score, negative_log_likelihood, score, score_probabilities
from ddcal.calibration.ranking import adaptive_ece, aurc
from ddcal.calibration.reliability import plot_reliability, save_figure
from ddcal.calibration.smooth import smooth_ece
from ddcal.calibration.temperature import CalibrationError, TemperatureFit, fit_temperature

__all__ = [
    "BrierParts",
    "CalibrationError",
    "Interval",
    "ReliabilityBins",
    "TemperatureFit",
    "accuracy",
    "adaptive_ece",
    "aurc",
    "bootstrap_difference",
    "bootstrap_intervals",
    "brier_decomposition",
    "brier_score",
    "classwise_ece",
    "ece_noise_floor",
    "expected_calibration_error",
    "fit_temperature",
    "masked_temperature_scaling",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "plot_reliability",
    "reliability_bins",
    "save_figure",
    "score",
    "score_probabilities",
    "smooth_ece",
]
