"""The metrics of classifiers and of their calibration, and how sure they are."""
