"""ddcal: studies of distilled datasets and the calibration of the networks trained on them."""

__version__ = "0.2.0"
