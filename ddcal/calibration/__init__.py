"""Calibration of classifiers: metrics, calibrators, masked temperature scaling and its sweeps, reliability diagrams."""

from ddcal.calibration.calibrator import Calibrator, load_calibrator
from ddcal.calibration.dirichlet import DirichletCalibration
from ddcal.calibration.ensemble_scaling import EnsembleTemperatureScaling
from ddcal.calibration.histogram import HistogramBinning
from ddcal.calibration.isotonic import IsotonicCalibration
from ddcal.calibration.mask_ratio import RatioChoice, ratio_for_accuracy
from ddcal.calibration.masked import fit_masked, masked_logits, masked_temperature_scaling
from ddcal.calibration.matrix_scaling import MatrixScaling, StructuredMatrixScaling, StructuredVectorScaling
from ddcal.calibration.metrics.binned import (
    BrierParts,
    ReliabilityBins,
    brier_decomposition,
    classwise_ece,
    ece_noise_floor,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
)
from ddcal.calibration.metrics.bootstrap import Interval, bootstrap_difference, bootstrap_intervals
from ddcal.calibration.metrics.ranking import adaptive_ece, aurc
from ddcal.calibration.metrics.scores import accuracy, brier_score, negative_log_likelihood, score, score_probabilities
from ddcal.calibration.metrics.smooth import smooth_ece
from ddcal.calibration.reliability import plot_reliability
from ddcal.calibration.sweep import SweepFit, fit_temperatures, sweep_logits, sweep_masks
from ddcal.calibration.temperature import CalibrationError, TemperatureFit, fit_temperature
from ddcal.calibration.temperature_scaling import TemperatureScaling
from ddcal.calibration.vector_scaling import VectorScaling
from ddcal.pictures import save_figure

__all__ = [
    "BrierParts",
    "CalibrationError",
    "Calibrator",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "Interval",
    "IsotonicCalibration",
    "MatrixScaling",
    "RatioChoice",
    "ReliabilityBins",
    "StructuredMatrixScaling",
    "StructuredVectorScaling",
    "SweepFit",
    "TemperatureFit",
    "TemperatureScaling",
    "VectorScaling",
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
    "fit_masked",
    "fit_temperature",
    "fit_temperatures",
    "load_calibrator",
    "masked_logits",
    "masked_temperature_scaling",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "plot_reliability",
    "ratio_for_accuracy",
    "reliability_bins",
    "save_figure",
    "score",
    "score_probabilities",
    "smooth_ece",
    "sweep_logits",
    "sweep_masks",
]
